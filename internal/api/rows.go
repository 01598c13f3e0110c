package api

import (
	"bufio"
	"encoding/json"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// rows writes a JSON array element by element, so that a long list is not held once more as text.
type rows struct {
	buffer  *bufio.Writer
	encoder *json.Encoder
	head    bool // the client wants the headers alone
	begun   bool
}

// newRows begins the answer; its headers must be set.
func newRows(c huma.Context) *rows {
	r, w := humago.Unwrap(c)
	c.SetHeader("Content-Type", "application/json")
	c.SetStatus(http.StatusOK)
	buffer := bufio.NewWriterSize(w, 16<<10)
	s := &rows{buffer: buffer, encoder: json.NewEncoder(buffer), head: r.Method == http.MethodHead}
	s.encoder.SetEscapeHTML(false)
	return s
}

// writeRows writes further elements. A client that left, or reads nothing, ends the request.
func writeRows[T, U any](s *rows, list []T, translate func(T) U) {
	for _, item := range list {
		if s.head {
			return
		}
		s.separate()
		if err := s.encoder.Encode(translate(item)); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// writeSandboxes is writeRows of sandboxes.
func (a *api) writeSandboxes(s *rows, list []stacyvm.Sandbox) {
	for _, item := range list {
		if s.head {
			return
		}
		s.separate()
		sandbox := a.sandboxOf(item)
		row, err := appendSandbox(s.buffer.AvailableBuffer(), &sandbox)
		if err == nil {
			_, err = s.buffer.Write(append(row, '\n'))
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// separate writes what comes before an element. An error stays for the next write.
func (s *rows) separate() {
	separator := byte(',')
	if !s.begun {
		separator = '['
	}
	s.begun = true
	_ = s.buffer.WriteByte(separator)
}

// end writes what closes the array.
func (s *rows) end() {
	closing := "]\n"
	if !s.begun {
		closing = "[]\n"
	}
	_, _ = s.buffer.WriteString(closing) // an error stays for Flush
	if s.head {
		return
	}
	if s.buffer.Flush() != nil {
		panic(http.ErrAbortHandler)
	}
}

// listed answers with a list.
func listed[T, U any](list []T, err error, translate func(T) U) (*written, error) {
	if err != nil {
		return nil, err
	}
	return &written{func(c huma.Context) {
		s := newRows(c)
		writeRows(s, list, translate)
		s.end()
	}}, nil
}

// same is a translation that changes nothing.
func same[T any](value T) T { return value }

// listOf describes the answer of a route that writes a list row by row.
func (a *api) listOf(what string, t reflect.Type) map[string]*huma.Response {
	return map[string]*huma.Response{
		"200": {Description: what, Content: map[string]*huma.MediaType{"application/json": {Schema: a.schema(t)}}},
	}
}
