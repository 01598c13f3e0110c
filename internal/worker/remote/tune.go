package remote

import (
	"net/http"
	"time"
)

const (
	// A peer that is silent this long is asked for a sign of life, and given up when none comes.
	pingAfter  = 10 * time.Second
	pingWithin = 20 * time.Second
	// writeWithin is how long a peer may take nothing at all.
	writeWithin = 30 * time.Second
	headerTime  = 30 * time.Second
	maxHeader   = 32 << 10
	mostStreams = 4096 // on one connection; a client opens another beyond
	// streamWindow is what a stream holds in memory for a reader that does not read, in bytes.
	streamWindow = 256 << 10
	// connWindow has room for every stream's window: one that nobody reads stops none of the
	// others.
	connWindow = mostStreams * streamWindow
	// frameSize bounds what one frame of a request holds, in bytes: whoever sends a body holds as
	// much in memory.
	frameSize = 64 << 10
)

// Tune sets a server up for a worker's handler: HTTP/2 with or without TLS, HTTP/1 for health
// checks, windows that keep streams apart, pings, and no time limit on a stream. The server's
// TLSConfig decides about TLS.
func Tune(server *http.Server) {
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(server.TLSConfig == nil)
	server.ReadHeaderTimeout, server.MaxHeaderBytes = headerTime, maxHeader
	server.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams:          mostStreams,
		MaxReceiveBufferPerStream:     streamWindow,
		MaxReceiveBufferPerConnection: connWindow,
		MaxReadFrameSize:              frameSize,
		SendPingTimeout:               pingAfter,
		PingTimeout:                   pingWithin,
		WriteByteTimeout:              writeWithin,
	}
}
