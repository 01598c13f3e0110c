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
