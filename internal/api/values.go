package api

import (
	"encoding/base64"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// maxDuration leaves room to add to it.
const maxDuration = 100 * 365 * 24 * time.Hour

// isDuration matches what time.ParseDuration takes, and what it refuses for its length alone.
var isDuration = regexp.MustCompile(`^[-+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`)

// duration reads an optional duration.
func duration(field, text string) (*time.Duration, error) {
	if text == "" {
		return nil, nil
	}
	d, err := time.ParseDuration(text)
	switch {
	case text[0] == '+', err != nil && !isDuration.MatchString(text):
		return nil, stacyvm.Invalid(field, "%.40q is not a duration such as 90s or 30m", text)
	case err != nil, d.Abs() > maxDuration:
		return nil, stacyvm.Invalid(field, "%.40q is longer than 100 years", text)
	case d == 0 && strings.ContainsAny(text, "123456789"): // 0 means no limit, which is not what was asked for
		return nil, stacyvm.Invalid(field, "%.40q is shorter than 1ns", text)
	}
	return &d, nil
}

// lifetime reads an optional duration that something lives for: a second or more, without a sign.
func lifetime(field, text string) (*time.Duration, error) {
	d, err := duration(field, text)
	if err == nil && d != nil && (*d < time.Second || text[0] == '-') {
		return nil, stacyvm.Invalid(field, "%.40q must be at least 1s", text)
	}
	return d, err
}

// durationText is a limit as clients read it; 0 is no limit and empty.
func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// mode reads optional permission bits; 0 is none given.
func mode(text string) (uint32, error) {
	if text == "" {
		return 0, nil
	}
	bits, err := strconv.ParseUint(text, 8, 32)
	if err != nil || bits > 0o7777 {
		return 0, stacyvm.Invalid("mode", "%.20q is not octal, such as 0644, or over 7777", text)
	}
	return uint32(bits), nil
}

// modeOf reads permission bits of something new, which need at least one.
func modeOf(text string) (uint32, error) {
	bits, err := mode(text)
	if err == nil && bits == 0 && text != "" {
		return 0, stacyvm.Invalid("mode", "a new file needs at least one permission")
	}
	return bits, err
}

// bytesOf gives the content that a body carries either as text or as base64.
func bytesOf(field string, text, encoded *string) ([]byte, error) {
	switch {
	case text != nil && encoded != nil:
		return nil, stacyvm.Invalid(field+"_base64", "cannot go together with %s", field)
	case encoded != nil:
		data, err := base64.StdEncoding.DecodeString(*encoded)
		if err != nil {
			return nil, stacyvm.Invalid(field+"_base64", "is not base64")
		}
		return data, nil
	case text != nil:
		return []byte(*text), nil
	}
	return nil, nil
}

// signals are Linux's numbers: the guest is Linux whatever this program runs on.
var signals = map[string]int{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11,
	"USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17, "CONT": 18, "STOP": 19, "TSTP": 20,
	"TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
}

// signalNumber reads TERM, SIGTERM or 15.
func signalNumber(text string) (int, error) {
	if n, ok := signals[strings.TrimPrefix(strings.ToUpper(text), "SIG")]; ok {
		return n, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 64 {
		return 0, stacyvm.Invalid("signal", "%.20q is no signal such as TERM, SIGKILL or 9", text)
	}
	return n, nil
}
