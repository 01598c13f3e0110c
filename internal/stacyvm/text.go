package stacyvm

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLabel bounds a label's key and its value, in bytes.
const maxLabel = 128

// PlainWord reports whether text is valid UTF-8 without white space and control characters.
func PlainWord(text string) bool {
	return utf8.ValidString(text) &&
		!strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
}

// CheckLabels refuses labels that no worker could have and no sandbox could ask for. CodeInvalid.
func CheckLabels(field string, labels map[string]string, most int) error {
	if len(labels) > most {
		return Invalid(field, "%d labels are over %d", len(labels), most)
	}
	for key, value := range labels {
		if key == "" || len(key) > maxLabel || len(value) > maxLabel || !PlainWord(key+value) {
			return Invalid(field, "%.64q is not a usable label: words of at most %d bytes", key, maxLabel)
		}
	}
	return nil
}
