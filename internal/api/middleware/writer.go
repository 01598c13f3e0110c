package middleware

import (
	"bufio"
	"net"
	"net/http"
	"time"
)

// Stall is how long a write to a client, or a read of its body, may make no progress. There is no
// limit on a request's whole time.
const Stall = 5 * time.Minute

// Writer gives each write its own deadline and remembers what was answered. Its Unwrap makes
// http.ResponseController work.
type Writer struct {
	http.ResponseWriter
	Status   int  // 0: nothing was answered yet
	Hijacked bool // the connection is no longer HTTP

	control *http.ResponseController
}

// NewWriter wraps w.
func NewWriter(w http.ResponseWriter) *Writer {
	return &Writer{ResponseWriter: w, control: http.NewResponseController(w)}
}

// Unwrap gives the wrapped writer.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter; a second status is ignored.
func (w *Writer) WriteHeader(status int) {
	if w.Status != 0 {
		return
	}
	if status >= 200 {
		w.Status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *Writer) Write(p []byte) (int, error) {
	if w.Status == 0 {
		w.Status = http.StatusOK
	}
	w.progress()
	return w.ResponseWriter.Write(p)
}

// FlushError sends what is buffered.
func (w *Writer) FlushError() error {
	if w.Status == 0 {
		w.Status = http.StatusOK
	}
	w.progress()
	return w.control.Flush()
}

// Hijack implements http.Hijacker.
func (w *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := w.control.Hijack()
	if err == nil {
		w.Hijacked = true
		w.Status = http.StatusSwitchingProtocols
	}
	return conn, buffer, err
}

// progress starts the time of the next write. A writer without deadlines (in tests) goes without.
func (w *Writer) progress() { _ = w.control.SetWriteDeadline(time.Now().Add(Stall)) }
