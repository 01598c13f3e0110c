package config

// Level says how bad a finding is.
type Level string

// Levels. Only a FAIL keeps the product from working, or a configuration from being fit for
// production.
const (
	Pass Level = "PASS"
	Warn Level = "WARN"
	Fail Level = "FAIL"
)

// Check is one thing that was looked at, with what to do about it. It holds no secret.
type Check struct {
	Name    string `json:"name"`
	Level   Level  `json:"level"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"` // of what did not pass
}

// Passed is a check that found nothing wrong.
func Passed(name, message string) Check { return Check{Name: name, Level: Pass, Message: message} }

// Warned is a check that found something that may be meant.
func Warned(name, message, fix string) Check { return Check{name, Warn, message, fix} }

// Failed is a check that found something that must not stay.
func Failed(name, message, fix string) Check { return Check{name, Fail, message, fix} }
