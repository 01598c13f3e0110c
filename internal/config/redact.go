package config

import (
	"errors"
	"regexp"
	"slices"
	"strings"
)

// redacted stands where a secret was.
const redacted = "[redacted]"

// secretWords are parts of the names whose values are never shown.
var secretWords = []string{
	"api_key", "apikey", "signing_key", "private_key", "key_file", "token", "secret", "password", "credential",
	"authorization", "auth_header", "dsn",
}

// value matches what follows a secret's name. Without quotes it goes on to the next space: rather
// too much than too little.
const value = `(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\S+)`

// telling are secrets that can be told by themselves, wherever they stand, with what is shown
// instead.
var telling = []struct {
	pattern *regexp.Regexp
	shown   string
}{
	{regexp.MustCompile(`stacyvm-worker-v1\.[A-Za-z0-9._~+/=-]+`), redacted},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}`), "${1} " + redacted},
	{regexp.MustCompile(`\bsk-[A-Za-z0-9_-]{8,}`), redacted},
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`), redacted},
	// to the last @ of the word
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^\s/:@"]*:)[^\s"]*@`), "${1}" + redacted + "@"},
}

// assignments match name=value, and named the other ways of writing it.
var (
	secretName  = `[\w.-]*(?:` + strings.Join(secretWords, "|") + `|passwd|pwd)[\w.-]*`
	assignments = regexp.MustCompile(`(?i)(` + secretName + `\s*=\s*)` + value)
	named       = regexp.MustCompile(`(?i)(["']?` + secretName + `["']?\s*:\s+|"` + secretName + `"\s*:)` + value)
)

// SecretKey reports whether a key of this name, dotted or not, is one whose value is never shown.
func SecretKey(name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(name, word) })
}

// Redact gives the value of a key as it may be shown: "[redacted]" for a secret that is not empty,
// and any other text without the secrets that RedactText finds in it.
func Redact(name, text string) string {
	if text != "" && SecretKey(name) {
		return redacted
	}
	return RedactText(text)
}

// RedactText takes out of a free text, such as a line of a log, what looks like a secret: worker
// tokens, bearer values, name=value and name: value of secret names, passwords in addresses,
// private keys and sk-... keys.
func RedactText(text string) string {
	return named.ReplaceAllString(redactErrors(text), "${1}"+redacted)
}

// redactErrors is RedactText without "name: text", which is the form of this package's own errors.
func redactErrors(text string) string {
	for _, secret := range telling {
		text = secret.pattern.ReplaceAllString(text, secret.shown)
	}
	return assignments.ReplaceAllString(text, "${1}"+redacted)
}

// RedactValue is Redact for what was decoded from JSON or YAML: texts, lists and maps in each
// other. name is the key that the value belongs to, or "".
func RedactValue(name string, v any) any {
	switch v := v.(type) {
	case string:
		return Redact(name, v)
	case []string:
		shown := make([]string, 0, len(v))
		for _, text := range v {
			shown = append(shown, Redact(name, text))
		}
		return shown
	case []any:
		shown := make([]any, 0, len(v))
		for _, element := range v {
			shown = append(shown, RedactValue(name, element))
		}
		return shown
	case map[string]string:
		shown := make(map[string]string, len(v))
		for key, text := range v {
			shown[key] = Redact(name+"."+key, text)
		}
		return shown
	case map[string]any:
		shown := make(map[string]any, len(v))
		for key, element := range v {
			shown[key] = RedactValue(name+"."+key, element)
		}
		return shown
	}
	return v
}

// hideIn gives an error whose text holds no secret.
func hideIn(err error) error {
	if err == nil {
		return nil
	}
	if text := redactErrors(err.Error()); text != err.Error() {
		return errors.New(text)
	}
	return err
}
