package config

import "fmt"

// Lint judges a configuration that was read: is it safe, and with production, is it fit for that?
// It reads nothing else, so that it can judge the configuration of another machine. A key that
// this build does not act on is told under the name "config".
func Lint(l Loaded, production bool) []Check {
	lint := &linter{c: l.Config, production: production}
	lint.loaded(l)
	lint.keys()
	lint.workerKeys()
	lint.workerTokens()
	lint.oidc()
	lint.server()
	lint.database()
	lint.defaults()
	lint.workerTLS()
	lint.docker()
	return lint.checks
}

// linter collects checks.
type linter struct {
	c          Config
	production bool
	checks     []Check
}

func (l *linter) pass(name, message string) {
	l.checks = append(l.checks, Passed(name, message))
}

func (l *linter) warn(name, message, fix string) {
	l.checks = append(l.checks, Warned(name, message, fix))
}

func (l *linter) fail(name, message, fix string) {
	l.checks = append(l.checks, Failed(name, message, fix))
}

// hard is a finding that production does not allow.
func (l *linter) hard(name, message, fix string) {
	if l.production {
		l.fail(name, message, fix)
	} else {
		l.warn(name, message, fix)
	}
}

// demand passes when good holds; else bad is a hard finding.
func (l *linter) demand(good bool, name, fine, bad, fix string) {
	if good {
		l.pass(name, fine)
	} else {
		l.hard(name, bad, fix)
	}
}

// advise passes when good holds; else bad is a warning.
func (l *linter) advise(good bool, name, fine, bad, fix string) {
	if good {
		l.pass(name, fine)
	} else {
		l.warn(name, bad, fix)
	}
}

func (l *linter) loaded(from Loaded) {
	l.checks = append(l.checks, from.Origin())
	l.checks = append(l.checks, from.Inert()...)
}

// Origin is the check that says what was read.
func (l *Loaded) Origin() Check {
	if l.File == "" {
		return Passed("config", "no configuration file: defaults and the environment")
	}
	return Passed("config", "read "+l.File)
}

// Inert warns of each key that was set and that this build does not act on.
func (l *Loaded) Inert() []Check {
	var checks []Check
	for _, u := range l.Unbuilt() {
		message := fmt.Sprintf("%s is set, and this build does not act on it", u.Key)
		if u.Unsafe {
			message += "; `serve` does not start with it"
		}
		checks = append(checks, Warned("config", message, "remove "+u.Key))
	}
	return checks
}
