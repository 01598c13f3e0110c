package main

import (
	"bytes"
	"testing"
)

func TestZero(t *testing.T) {
	blob := []byte("BLOB")
	for name, test := range map[string]struct {
		program, want string
		fails         bool
	}{
		"once":  {"headBLOBtail", "head\x00\x00\x00\x00tail", false},
		"none":  {"headBLO", "headBLO", true},
		"twice": {"BLOBxBLOB", "BLOBxBLOB", true},
	} {
		t.Run(name, func(t *testing.T) {
			program := []byte(test.program)
			if err := zero(program, blob); (err != nil) != test.fails {
				t.Fatalf("error %v, want failure %v", err, test.fails)
			}
			if !bytes.Equal(program, []byte(test.want)) {
				t.Fatalf("program %q, want %q", program, test.want)
			}
		})
	}
	if err := zero([]byte("abc"), nil); err == nil {
		t.Fatal("an empty blob was accepted")
	}
}
