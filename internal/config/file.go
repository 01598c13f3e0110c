package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

func (l *Loaded) readFile(path string) error {
	text, err := readBounded(path, maxFile)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	l.File = path
	var present map[string]any
	if err := yaml.Unmarshal(text, &present); err != nil {
		return fmt.Errorf("configuration file %s: %s", path, plainYAML(err))
	}
	if err := checkTimes(present); err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	decoded := l.Config
	err = yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&decoded)
	if errors.Is(err, io.EOF) {
		return nil // an empty file sets nothing
	}
	if err != nil {
		return fmt.Errorf("configuration file %s: %s", path, plainYAML(err))
	}
	l.Config = decoded
	for _, k := range keys(&l.Config) {
		if _, ok := lookup(present, strings.Split(k.name, ".")); ok {
			l.Sources[k.name] = fromFile
		}
	}
	return nil
}

// checkTimes names the key of a text that is no duration, which the decoder does not.
func checkTimes(present map[string]any) error {
	c := Default()
	for _, k := range keys(&c) {
		text, _ := lookup(present, strings.Split(k.name, "."))
		word, isText := text.(string)
		if _, isTime := reflect.TypeAssert[time.Duration](k.field); !isTime || !isText {
			continue
		}
		if err := k.set(word); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return nil
}

// quoted is a piece of the file in a message of the YAML decoder.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// plainYAML is a decoder's error with its line and column. It quotes the names of keys and no
// value: a secret that begins with * or |, and is not in quotes, is a syntax error.
func plainYAML(err error) string {
	text := yaml.FormatError(err, false, false)
	for _, ofKey := range []string{"unknown field", "mapping key", "duplicate key"} {
		if strings.Contains(text, ofKey) {
			return text
		}
	}
	if strings.Contains(text, "find alias") {
		text += ": a text that begins with * needs quotes"
	}
	return quoted.ReplaceAllString(text, `"…"`)
}

// lookup finds what the decoded file holds for the key.
func lookup(section map[string]any, path []string) (value any, ok bool) {
	value, ok = section[path[0]]
	if !ok || len(path) == 1 {
		return value, ok
	}
	below, ok := value.(map[string]any)
	if !ok {
		return nil, false
	}
	return lookup(below, path[1:])
}
