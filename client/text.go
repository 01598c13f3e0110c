package client

import (
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// NotTextError is a request that JSON cannot carry: encoding/json would change its bytes and say
// nothing.
type NotTextError struct {
	Field string // as the API calls it, such as args[2]
	Value string
}

// Error implements error.
func (e *NotTextError) Error() string {
	return fmt.Sprintf("%s: %q is not UTF-8 text, and the API takes nothing else there", e.Field, e.Value)
}

// checkText finds a string in what is about to become JSON that is no UTF-8. field is what it is
// called.
func checkText(field string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.String:
		if text := v.String(); !utf8.ValidString(text) {
			return &NotTextError{Field: field, Value: text}
		}
	case reflect.Pointer, reflect.Interface:
		return checkText(field, v.Elem()) // of nil: the zero Value, which is no string
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil // base64
		}
		for i := range v.Len() {
			if err := checkText(fmt.Sprintf("%s[%d]", field, i), v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			name := strings.TrimPrefix(fmt.Sprintf("%s.%s", field, entries.Key()), ".")
			for _, part := range []reflect.Value{entries.Key(), entries.Value()} {
				if err := checkText(name, part); err != nil {
					return err
				}
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				name = f.Name
			}
			if err := checkText(strings.TrimPrefix(field+"."+name, "."), v.Field(i)); err != nil {
				return err
			}
		}
	default: // nothing else holds text
	}
	return nil
}
