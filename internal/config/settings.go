package config

import "time"

// Setting is one key as it may be shown.
type Setting struct {
	Key string `json:"key"`
	// Value is a text, number, truth value, list or map; secrets are "[redacted]", durations are
	// texts such as 30s.
	Value any `json:"value"`
	// Source says where the value came from: default, file, environment or secret file.
	Source string `json:"source"`
}

// Settings lists every key, without secrets, in the order of the documentation.
func (l *Loaded) Settings() []Setting {
	var shown []Setting
	for _, k := range keys(&l.Config) {
		shown = append(shown, Setting{Key: k.name, Value: k.shown(), Source: l.Sources[k.name]})
	}
	return shown
}

func (k key) shown() any {
	switch v := k.field.Interface().(type) {
	case time.Duration:
		return v.String()
	case []string:
		if v == nil {
			v = []string{}
		}
		return RedactValue(k.name, v)
	default:
		return RedactValue(k.name, v)
	}
}
