package api

import (
	"encoding/base64"
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends the frame as encoding/json writes it, without its copies and without garbage:
// most of what a server does for output is this.
func (f Frame) AppendJSON(to []byte) []byte {
	to = append(to, '{')
	begun := len(to)
	name := func(name string) {
		if len(to) > begun {
			to = append(to, ',')
		}
		to = append(append(append(to, '"'), name...), '"', ':')
	}
	text := func(field, value string) {
		if value != "" {
			name(field)
			to = appendEscaped(to, value)
		}
	}
	text("type", f.Type)
	text("stream", f.Stream)
	if f.Offset != nil {
		name("offset")
		to = strconv.AppendUint(to, *f.Offset, 10)
	}
	if f.Data != nil {
		name("data")
		to = appendEscaped(to, *f.Data)
	}
	if len(f.DataBase64) > 0 {
		name("data_base64")
		to = append(to, '"')
		to = append(base64.StdEncoding.AppendEncode(to, f.DataBase64), '"')
	}
	if f.Gap != 0 {
		name("gap")
		to = strconv.AppendUint(to, f.Gap, 10)
	}
	text("code", f.Code)
	text("error", f.Error)
	return append(to, '}')
}

// escapeNames are the characters that JSON has a letter for.
var escapeNames = [utf8.RuneSelf]byte{
	'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't',
}

// escaped are the characters that do not stand for themselves in what encoding/json writes.
var escaped = func() (set [utf8.RuneSelf]bool) {
	for c := range set {
		set[c] = c < ' ' || escapeNames[c] != 0 || c == '<' || c == '>' || c == '&'
	}
	return set
}()

// appendEscaped appends a JSON string as encoding/json writes it.
func appendEscaped(to []byte, text string) []byte {
	const digits = "0123456789abcdef"
	to = append(to, '"')
	plain := 0 // where what stands for itself begins
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if escaped[c] {
				to = append(to, text[plain:i]...)
				if letter := escapeNames[c]; letter != 0 {
					to = append(to, '\\', letter)
				} else {
					to = append(to, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
				}
				plain = i + 1
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			to = append(append(to, text[plain:i]...), `\ufffd`...)
			plain = i + size
		case r == '\u2028' || r == '\u2029': // line ends in JavaScript
			to = append(append(to, text[plain:i]...), `\u202`...)
			to = append(to, digits[r&15])
			plain = i + size
		}
		i += size
	}
	return append(append(to, text[plain:]...), '"')
}
