// Package telemetry is how the product tells operators what it does: its log. It knows no other
// part of the product.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
)

// NewLogger makes the server's log. level: debug, info, warn, error; format: json (one object per
// line) or pretty (text).
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("logging.level: %q is unknown", level)
	}
	options := &slog.HandlerOptions{Level: least}
	if format == "pretty" {
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return slog.New(slog.NewJSONHandler(w, options)), nil
}
