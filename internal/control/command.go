package control

import (
	"crypto/rand"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	maxArgs         = 4096
	maxCommandBytes = 1 << 20
	maxUser         = 128
)

var processID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// command checks a request and makes what the guest runs of it. The process id is always set, so
// that a start whose answer was lost can be sent again without running anything twice.
func (s *Service) command(request ExecRequest) (stacyvm.Command, error) {
	argv, label, err := arguments(request)
	if err != nil {
		return stacyvm.Command{}, err
	}
	timeout, err := s.timeout(request.Timeout)
	if err != nil {
		return stacyvm.Command{}, err
	}
	command := stacyvm.Command{
		ProcessID: or(request.ProcessID, "p-"+strings.ToLower(rand.Text())),
		Argv:      argv,
		Label:     label,
		Tag:       request.Key.tag(),
		Env:       request.Env,
		Workdir:   request.Workdir,
		User:      request.User,
		Timeout:   timeout,
		Terminal:  request.Terminal,
		Stdin:     request.Stdin || len(request.Input) > 0,
		Lossless:  request.Lossless,
	}
	for _, err := range []error{
		checkProcessID(command.ProcessID),
		checkEnv(command.Env),
		checkWorkdir(command.Workdir),
		checkUser(command.User),
		checkTerminal(command.Terminal),
	} {
		if err != nil {
			return stacyvm.Command{}, err
		}
	}
	if request.Stdin && len(request.Input) > 0 {
		return stacyvm.Command{}, stacyvm.Invalid("input", "cannot go together with an open standard input")
	}
	return command, nil
}

// arguments gives the argument vector and, for a shell command, the text to show in its place.
func arguments(request ExecRequest) (argv []string, label string, err error) {
	if len(request.Args) > maxArgs {
		return nil, "", stacyvm.Invalid("args", "%d arguments are over %d", len(request.Args), maxArgs)
	}
	total := len(request.Command)
	for _, arg := range request.Args {
		total += len(arg)
		if !storable(arg) {
			return nil, "", stacyvm.Invalid("args", "an argument must be UTF-8 text without zero bytes")
		}
	}
	switch {
	case total > maxCommandBytes:
		return nil, "", stacyvm.Invalid("command", "%d bytes with its arguments are over %d", total, maxCommandBytes)
	case !storable(request.Command):
		return nil, "", stacyvm.Invalid("command", "must be UTF-8 text without zero bytes")
	}
	switch request.Mode {
	case "", "shell":
		words := []string{request.Command}
		for _, arg := range request.Args {
			words = append(words, quoted(arg))
		}
		text := strings.Join(words, " ")
		return []string{"/bin/sh", "-c", text}, text, nil
	case "argv":
		if strings.TrimSpace(request.Command) == "" {
			return nil, "", stacyvm.Invalid("command", "is required in mode argv, and not blank")
		}
		return append([]string{request.Command}, request.Args...), "", nil
	}
	return nil, "", stacyvm.Invalid("mode", "%.32q is unknown; allowed are shell and argv", request.Mode)
}

// quoted makes one word of a shell command of text.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// timeout gives the limit of a command; 0 is none.
func (s *Service) timeout(asked *time.Duration) (time.Duration, error) {
	if asked == nil {
		return s.defaults.ExecTimeout, nil
	}
	limit := s.defaults.MaxExecTimeout
	switch {
	case *asked < 0:
		return 0, &stacyvm.Error{Code: stacyvm.CodeLimit, Field: "timeout", Message: "timeout: must not be negative"}
	case limit > 0 && *asked > limit:
		return 0, &stacyvm.Error{Code: stacyvm.CodeLimit, Field: "timeout",
			Message: "timeout: over the maximum of " + limit.String()}
	}
	return *asked, nil
}

func checkProcessID(id string) error {
	if !processID.MatchString(id) {
		return stacyvm.Invalid("process_id", "must be 1 to 64 letters, digits, - or _")
	}
	return nil
}

func checkWorkdir(dir string) error {
	if dir == "" {
		return nil
	}
	if !storable(dir) || len(dir) > 4096 || !path.IsAbs(dir) {
		return stacyvm.Invalid("workdir", "must be an absolute path of at most 4096 bytes")
	}
	for _, system := range []string{"/proc", "/sys", "/dev"} {
		if clean := path.Clean(dir); clean == system || strings.HasPrefix(clean, system+"/") {
			return stacyvm.Invalid("workdir", "must not be below %s", system)
		}
	}
	return nil
}

func checkUser(user string) error {
	if utf8.RuneCountInString(user) > maxUser || !stacyvm.PlainWord(user) {
		return stacyvm.Invalid("user", "must be a name or uid, alone or with :group, of at most %d characters",
			maxUser)
	}
	return nil
}

func checkTerminal(terminal *stacyvm.Terminal) error {
	if terminal != nil && (terminal.Rows == 0 || terminal.Cols == 0) {
		return stacyvm.Invalid("terminal", "rows and cols must be positive")
	}
	return nil
}
