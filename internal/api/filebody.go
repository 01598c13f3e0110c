package api

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// WriteFile is a small file with its content. Its body is decoded as it comes, so that the content
// is held once: see readWriteFile.
type WriteFile struct {
	Path          string  `json:"path" minLength:"1" maxLength:"4096"`
	Content       *string `json:"content,omitempty" doc:"As text."`
	ContentBase64 *string `json:"content_base64,omitempty" doc:"In place of content, for bytes."`
	Mode          string  `json:"mode,omitempty" maxLength:"8" doc:"Octal; 0644, or what the file had." example:"0644"`
	User          string  `json:"user,omitempty" maxLength:"128" doc:"Owner of a new file; the image's user when empty."`
}

// maxShort bounds the fields of a WriteFile that are not content, in bytes.
const maxShort = 8 << 10

// fileBody is a WriteFile as it was read.
type fileBody struct {
	path, mode, user string
	content          budget.Buffer
}

// readWriteFile reads a WriteFile from a body of at most limit bytes. Its content is counted in
// account. CodeInvalid names the field; CodeTooLarge; CodeUnavailable: there is no room for the
// content now.
func readWriteFile(body io.Reader, limit int64, account *budget.Account) (fileBody, error) {
	bounded := &io.LimitedReader{R: body, N: limit + 1}
	p := &objectReader{r: bufio.NewReaderSize(bounded, 32<<10)}
	b := fileBody{content: budget.NewBuffer(account)}
	seen, given := map[string]bool{}, map[string]bool{}
	err := p.object(func(name string) error {
		if seen[name] {
			return stacyvm.Invalid(cutField(name), "is there twice")
		}
		seen[name] = true
		if null, err := p.null(); null || err != nil {
			return err // as if it were not there
		}
		given[name] = true
		return b.field(p, name)
	})
	switch {
	case bounded.N <= 0: // what was made of the first bytes does not count
		return b, stacyvm.Errorf(stacyvm.CodeTooLarge, "body: larger than %d bytes", limit)
	case err != nil:
		return b, err
	case !given["path"] || b.path == "":
		return b, stacyvm.Invalid("path", "is required")
	case given["content"] && given["content_base64"]:
		return b, stacyvm.Invalid("content_base64", "cannot go together with content")
	case !given["content"] && !given["content_base64"]:
		return b, stacyvm.Invalid("content", "is required; an empty file has an empty one")
	}
	return b, nil
}

// field reads one field's value.
func (b *fileBody) field(p *objectReader, name string) (err error) {
	switch name {
	case "path":
		b.path, err = p.short(name)
	case "mode":
		b.mode, err = p.short(name)
	case "user":
		b.user, err = p.short(name)
	case "content":
		err = b.keep(p, name, func(text io.Reader) io.Reader { return text })
	case "content_base64":
		err = b.keep(p, name, func(text io.Reader) io.Reader { return base64.NewDecoder(base64.StdEncoding, text) })
	default:
		err = stacyvm.Invalid(cutField(name), "is not known here")
	}
	return err
}

// keep collects the content.
func (b *fileBody) keep(p *objectReader, name string, decoded func(io.Reader) io.Reader) error {
	text, err := p.text(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(&b.content, decoded(text))
	var bad base64.CorruptInputError
	switch {
	case errors.Is(err, budget.ErrFull):
		return budget.Refused()
	case errors.As(err, &bad), errors.Is(err, io.ErrUnexpectedEOF) && text.done:
		return stacyvm.Invalid(name, "is not base64")
	}
	return err
}

// objectReader reads one JSON object whose values are all texts, as it comes.
type objectReader struct {
	r  *bufio.Reader
	at int64
}

// object reads the whole body; value must read what stands behind each name.
func (p *objectReader) object(value func(name string) error) error {
	if c, err := p.next(); err != nil || c != '{' {
		return orError(err, stacyvm.Invalid("body", "must be a JSON object"))
	}
	for first := true; ; first = false {
		c, err := p.next()
		switch {
		case err != nil:
			return err
		case c == '}' && first:
			return p.end()
		case c != '"':
			return p.wrong("a field's name")
		}
		name, err := p.rest("body", maxShort)
		if err != nil {
			return err
		}
		if c, err := p.next(); err != nil || c != ':' {
			return orError(err, p.wrong("a colon"))
		}
		if err := value(name); err != nil {
			return err
		}
		switch c, err := p.next(); {
		case err != nil:
			return err
		case c == '}':
			return p.end()
		case c != ',':
			return p.wrong("a comma")
		}
	}
}

// end makes sure that nothing follows the object.
func (p *objectReader) end() error {
	if _, err := p.next(); !errors.Is(err, errBodyEnds) {
		return orError(err, p.wrong("nothing more"))
	}
	return nil
}

func orError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// errBodyEnds is the answer to a body that ends too early.
var errBodyEnds = stacyvm.Invalid("body", "is not JSON: it ends too early")

func (p *objectReader) wrong(wanted string) error {
	return stacyvm.Invalid("body", "is not JSON: %s is expected at byte %d", wanted, p.at)
}

// next gives the next byte that is no white space.
func (p *objectReader) next() (byte, error) {
	for {
		c, err := p.byte()
		if err != nil || !strings.ContainsRune(" \t\r\n", rune(c)) {
			return c, err
		}
	}
}

func (p *objectReader) byte() (byte, error) {
	c, err := p.r.ReadByte()
	if errors.Is(err, io.EOF) {
		return 0, errBodyEnds
	}
	p.at++
	return c, err
}

// null reads the value null, if that comes.
func (p *objectReader) null() (bool, error) {
	c, err := p.next()
	if err != nil || c != 'n' {
		_ = p.r.UnreadByte() // it was just read
		p.at--
		return false, err
	}
	for _, want := range []byte("ull") {
		if c, err := p.byte(); err != nil || c != want {
			return false, orError(err, p.wrong("null"))
		}
	}
	return true, nil
}

// text begins a value.
func (p *objectReader) text(field string) (*textReader, error) {
	if c, err := p.next(); err != nil || c != '"' {
		return nil, orError(err, stacyvm.Invalid(field, "must be a string"))
	}
	return &textReader{p: p, field: field}, nil
}

// short reads a value that is not long.
func (p *objectReader) short(field string) (string, error) {
	if _, err := p.text(field); err != nil {
		return "", err
	}
	text, err := p.rest(field, maxShort)
	if err == nil && strings.Contains(text, "\x00") {
		err = stacyvm.Invalid(field, "must not hold a zero byte")
	}
	return text, err
}

// rest reads a text behind its first quote.
func (p *objectReader) rest(field string, limit int64) (string, error) {
	text, err := io.ReadAll(io.LimitReader(&textReader{p: p, field: field}, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = stacyvm.Invalid(field, "must have at most %d bytes", limit)
	}
	return string(text), err
}

// textReader reads the characters of a JSON string up to its closing quote. What is not valid text
// is refused, because it would not arrive as it was sent.
type textReader struct {
	p     *objectReader
	field string
	rest  []byte // decoded, not given yet
	one   [utf8.UTFMax]byte
	begun []byte // the beginning of a character whose rest did not come yet
	done  bool   // the closing quote was read
}

// Read implements io.Reader. It gives what there is, and waits for the body only when that is
// nothing.
func (t *textReader) Read(into []byte) (n int, err error) {
	for n < len(into) && err == nil {
		switch {
		case len(t.rest) > 0:
			given := copy(into[n:], t.rest)
			t.rest = t.rest[given:]
			n += given
		case t.done && n == 0:
			return 0, io.EOF
		case t.done, n > 0 && t.p.r.Buffered() == 0:
			return n, nil
		default:
			var given int
			given, err = t.more(into[n:])
			n += given
		}
	}
	return n, err
}

// more decodes what is in the buffer up to the next special character, or that one: into its
// argument, or to be given next.
func (t *textReader) more(into []byte) (int, error) {
	if _, err := t.p.r.Peek(1); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, errBodyEnds
		}
		return 0, err
	}
	plain, _ := t.p.r.Peek(t.p.r.Buffered())
	n := 0
	for n < len(plain) && plain[n] != '"' && plain[n] != '\\' && plain[n] >= ' ' {
		n++
	}
	if n > 0 {
		return t.plain(plain[:n], into)
	}
	c, err := t.p.byte()
	switch {
	case err != nil:
		return 0, err
	case len(t.begun) > 0:
		return 0, t.noText()
	case c == '"':
		t.done = true
		return 0, nil
	case c < ' ':
		return 0, stacyvm.Invalid(t.field, "holds a control character that is not escaped")
	}
	return 0, t.escape()
}

// plain takes characters that stand for themselves out of the buffer: as many as there is room for
// or, where a character has begun, the rest of that.
func (t *textReader) plain(data, into []byte) (int, error) {
	later := len(t.begun) > 0 || len(into) < utf8.UTFMax
	if later {
		data = data[:min(len(data), utf8.UTFMax)]
		into = slices.Concat(t.begun, data)
	} else {
		into = into[:copy(into, data)]
		data = data[:len(into)]
	}
	_, _ = t.p.r.Discard(len(data)) // they are there
	t.p.at += int64(len(data))
	end := len(into) - incomplete(into)
	if !utf8.Valid(into[:end]) {
		return 0, t.noText()
	}
	t.begun = bytes.Clone(into[end:])
	if later {
		t.rest = into[:end]
		return 0, nil
	}
	return end, nil
}

func (t *textReader) noText() error {
	return stacyvm.Invalid(t.field, "is not UTF-8 text; send bytes as base64")
}

// escapes are the characters that a backslash and one letter stand for (RFC 8259, section 7).
var escapes = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// escape decodes what follows a backslash.
func (t *textReader) escape() error {
	c, err := t.p.byte()
	if err != nil {
		return err
	}
	if plain, ok := escapes[c]; ok {
		t.rest = append(t.one[:0], plain)
		return nil
	}
	if c != 'u' {
		return stacyvm.Invalid(t.field, "holds the unknown escape %q", `\`+string(rune(c)))
	}
	r, err := t.unit()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		if r, err = t.pair(r); err != nil {
			return err
		}
	}
	t.rest = utf8.AppendRune(t.one[:0], r)
	return nil
}

// pair reads the second half of a character that UTF-16 has in two.
func (t *textReader) pair(first rune) (rune, error) {
	lone := stacyvm.Invalid(t.field, "holds half of a surrogate pair")
	for _, want := range []byte(`\u`) {
		if c, err := t.p.byte(); err != nil || c != want {
			return 0, orError(err, lone)
		}
	}
	second, err := t.unit()
	if err != nil {
		return 0, err
	}
	if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
		return r, nil
	}
	return 0, lone
}

// unit reads four hexadecimal digits.
func (t *textReader) unit() (rune, error) {
	var digits [4]byte
	for i := range digits {
		c, err := t.p.byte()
		if err != nil {
			return 0, err
		}
		digits[i] = c
	}
	n, err := strconv.ParseUint(string(digits[:]), 16, 16)
	if err != nil || strings.ContainsAny(string(digits[:]), "+-_") {
		return 0, stacyvm.Invalid(t.field, "holds the unknown escape %q", fmt.Sprintf(`\u%s`, digits[:]))
	}
	return rune(n), nil
}
