package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// key is one setting: a field of Config with its dotted name.
type key struct {
	name   string
	field  reflect.Value
	secret secrecy
}

// secrecy says how a key's value is handled.
type secrecy string

const (
	open   secrecy = ""
	hidden secrecy = "true"   // never shown; a file that holds it belongs to its owner alone
	public secrecy = "public" // may come from a file of its own, which everybody may read
)

// env is the key's name in the environment.
func (k key) env() string { return "STACYVM_" + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_")) }

// keys lists every setting of c, in the order of the struct.
func keys(c *Config) []key { return collect("", reflect.ValueOf(c).Elem()) }

func collect(prefix string, section reflect.Value) []key {
	var found []key
	for i := range section.NumField() {
		field, about := section.Field(i), section.Type().Field(i)
		name := prefix + about.Tag.Get("yaml")
		if field.Kind() == reflect.Struct {
			found = append(found, collect(name+".", field)...)
			continue
		}
		found = append(found, key{name: name, field: field, secret: secrecy(about.Tag.Get("secret"))})
	}
	return found
}

// same reports whether the key has the value of the same key in another Config. No list and an
// empty one are the same.
func (k key) same(other key) bool {
	if kind := k.field.Kind(); (kind == reflect.Slice || kind == reflect.Map) && k.field.Len() == 0 {
		return other.field.Len() == 0
	}
	return reflect.DeepEqual(k.field.Interface(), other.field.Interface())
}

// set gives the field the value of a text, as the environment has it.
func (k key) set(text string) error {
	switch k.field.Interface().(type) {
	case string:
		k.field.SetString(text)
	case bool:
		value, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		k.field.SetBool(value)
	case int:
		value, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		k.field.SetInt(int64(value))
	case time.Duration:
		value, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 30s or 5m", text)
		}
		k.field.SetInt(int64(value))
	case []string:
		var values []string
		for word := range strings.SplitSeq(text, ",") {
			if word = strings.TrimSpace(word); word != "" {
				values = append(values, word)
			}
		}
		k.field.Set(reflect.ValueOf(values))
	case map[string]string:
		return fmt.Errorf("a map stands in the configuration file only")
	default:
		// a mistake in the struct; a test sets every key
		panic("config: the type of " + k.name + " cannot be set from a text")
	}
	return nil
}
