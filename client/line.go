package client

import (
	"bytes"
	"encoding/base64"
	"math"
)

// dataLine reads a line of output as servers write it: most of what a client does for output is
// this, and encoding/json takes ten times as long. false: it is another line, or is written in
// another way.
func dataLine(text []byte) (line outputLine, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte(`{"stream":"std`))
	if !ok {
		return line, false
	}
	switch {
	case bytes.HasPrefix(rest, []byte(`out","offset":`)):
		line.Stream = Stdout
	case bytes.HasPrefix(rest, []byte(`err","offset":`)):
		line.Stream = Stderr
	default:
		return line, false
	}
	rest = rest[len(`out","offset":`):]
	digits := bytes.IndexByte(rest, ',')
	if digits < 0 {
		return line, false
	}
	if line.Offset, ok = number(rest[:digits]); !ok {
		return line, false
	}
	rest, ok = bytes.CutPrefix(rest[digits:], []byte(`,"data_base64":"`))
	if !ok {
		return line, false
	}
	if rest, ok = bytes.CutSuffix(rest, []byte(`"}`)); !ok || len(rest)%4 != 0 {
		return line, false
	}
	filled := padding(rest)
	if filled > 2 {
		return line, false // no base64: encoding/json says so
	}
	size := base64.StdEncoding.DecodedLen(len(rest)) - filled
	line.Data = make([]byte, size+2) // the decoder wants room for what the padding stands for
	n, err := base64.StdEncoding.Decode(line.Data, rest)
	line.Data = line.Data[:n]
	return line, err == nil && n == size // less: there were ends of lines in it
}

// number reads a number as JSON has it.
func number(digits []byte) (n uint64, ok bool) {
	if len(digits) == 0 || digits[0] == '0' && len(digits) > 1 {
		return 0, false
	}
	for _, digit := range digits {
		if digit < '0' || digit > '9' || n > (math.MaxInt64-9)/10 {
			return 0, false
		}
		n = 10*n + uint64(digit-'0')
	}
	return n, true
}

// padding counts the characters that fill up a text of base64.
func padding(text []byte) int { return len(text) - len(bytes.TrimRight(text, "=")) }
