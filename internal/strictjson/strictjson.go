// Package strictjson reads JSON that has one meaning. encoding/json takes a field's name in any
// case, the last of two equal names, and a replacement for text that is none: two readers of one
// message can then act on different values. Here each of them is an error that names the field.
package strictjson

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxDepth bounds how deep a value may be nested.
const MaxDepth = 64

// Error says what is wrong with which field; Field is empty for the whole value.
type Error struct {
	Field, Problem string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Field == "" {
		return e.Problem
	}
	return e.Field + ": " + e.Problem
}

// Unmarshal is json.Unmarshal of text that Check lets through.
func Unmarshal(data []byte, into any) error {
	if err := Check(data, reflect.TypeOf(into)); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// Check returns an *Error for names that stand twice in an object, text that is not Unicode and
// values that are nested too deep, and a *json.SyntaxError for what is not JSON. With a type it
// also refuses names that encoding/json would take for one of the type's fields although they are
// spelled differently.
func Check(data []byte, t reflect.Type) error {
	if !json.Valid(data) {
		var whole json.RawMessage
		return json.Unmarshal(data, &whole) // it says where
	}
	w := walker{data: data}
	return w.value(t, "", 0)
}

// walker goes through valid JSON once.
type walker struct {
	data []byte
	at   int
}

// next skips white space and gives the byte that follows.
func (w *walker) next() byte {
	for strings.IndexByte(" \t\r\n", w.data[w.at]) >= 0 {
		w.at++
	}
	return w.data[w.at]
}

// value checks one value at a path.
func (w *walker) value(t reflect.Type, path string, depth int) error {
	if depth > MaxDepth {
		return &Error{Problem: fmt.Sprintf("nested deeper than %d", MaxDepth)}
	}
	switch w.next() {
	case '{':
		return w.object(t, path, depth)
	case '[':
		return w.array(element(t), path, depth)
	case '"':
		_, err := w.text(path)
		return err
	}
	for w.at < len(w.data) && strings.IndexByte(" \t\r\n,]}", w.data[w.at]) < 0 { // a number, true, false or null
		w.at++
	}
	return nil
}

func (w *walker) object(t reflect.Type, path string, depth int) error {
	fields, each := members(t)
	seen := map[string]bool{}
	w.at++
	for w.next() != '}' {
		if w.data[w.at] == ',' {
			w.at++
			w.next()
		}
		name, err := w.text(join(path, "a name"))
		if err != nil {
			return err
		}
		at := join(path, name)
		if seen[name] {
			return &Error{at, "stands twice"}
		}
		seen[name] = true
		inner, known := fields[name]
		if !known {
			if spelled := similar(fields, name); spelled != "" {
				return &Error{at, "is not known here; the name is " + spelled}
			}
			inner = each
		}
		w.next()
		w.at++ // the colon
		if err := w.value(inner, at, depth+1); err != nil {
			return err
		}
	}
	w.at++
	return nil
}

func (w *walker) array(t reflect.Type, path string, depth int) error {
	w.at++
	for i := 0; w.next() != ']'; i++ {
		if w.data[w.at] == ',' {
			w.at++
		}
		if err := w.value(t, path+"["+strconv.Itoa(i)+"]", depth+1); err != nil {
			return err
		}
	}
	w.at++
	return nil
}

// text checks a string and gives what it means.
func (w *walker) text(path string) (string, error) {
	begin, escaped := w.at, false
	for w.at++; w.data[w.at] != '"'; w.at++ {
		if w.data[w.at] != '\\' {
			continue
		}
		escaped = true
		w.at++
		if w.data[w.at] != 'u' {
			continue
		}
		if half := w.unit(w.at + 1); half >= 0xd800 && half < 0xe000 {
			low := -1
			if w.data[w.at+5] == '\\' && w.data[w.at+6] == 'u' {
				low = w.unit(w.at + 7)
			}
			if half >= 0xdc00 || low < 0xdc00 || low >= 0xe000 {
				return "", &Error{path, "holds half of a surrogate pair, which is no text; send bytes as base64"}
			}
			w.at += 6
		}
		w.at += 4
	}
	w.at++
	raw := w.data[begin:w.at]
	if !utf8.Valid(raw) {
		return "", &Error{path, "is not UTF-8 text; send bytes as base64"}
	}
	if !escaped {
		return string(raw[1 : len(raw)-1]), nil
	}
	var meant string
	err := json.Unmarshal(raw, &meant)
	return meant, err
}

// unit reads four hexadecimal digits; valid JSON has them.
func (w *walker) unit(at int) int {
	n, _ := strconv.ParseUint(string(w.data[at:at+4]), 16, 16)
	return int(n)
}

// maxName bounds what an error repeats of a path.
const maxName = 100

func join(path, name string) string {
	if path != "" {
		name = path + "." + name
	}
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "")
	}
	return name
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// plain takes pointers off; nil for a type that reads its own JSON, or has no fields that are
// known before.
func plain(t reflect.Type) reflect.Type {
	for t != nil {
		switch {
		case t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler):
			return nil
		case t.Kind() != reflect.Pointer:
			return t
		}
		t = t.Elem()
	}
	return nil
}

// element is the type of a list's elements.
func element(t reflect.Type) reflect.Type {
	if t = plain(t); t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		return t.Elem()
	}
	return nil
}

// members gives the fields of a struct by their names in JSON, or the type of all members of a
// map.
func members(t reflect.Type) (fields map[string]reflect.Type, each reflect.Type) {
	switch t = plain(t); {
	case t == nil:
		return nil, nil
	case t.Kind() == reflect.Map:
		return nil, t.Elem()
	case t.Kind() != reflect.Struct:
		return nil, nil
	}
	fields = map[string]reflect.Type{}
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		// the fields of the former are visible themselves
		case field.Anonymous && name == "", !field.IsExported(), name == "-":
			continue
		case name == "":
			name = field.Name
		}
		if _, nearer := fields[name]; !nearer || len(field.Index) == 1 {
			fields[name] = field.Type
		}
	}
	return fields, nil
}

// similar gives the field that encoding/json would take a name for.
func similar(fields map[string]reflect.Type, name string) string {
	for field := range fields {
		if strings.EqualFold(field, name) {
			return field
		}
	}
	return ""
}
