//go:build pprof

package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"sync"
)

// A build with this tag is for those who look where the server's time goes (`make bench` with
// -profile). It listens on the Unix socket that PPROF_SOCKET names. `POST /?file=PATH` writes a
// profile of the processors into the file for as long as the caller holds the request.
func init() {
	path := os.Getenv("PPROF_SOCKET")
	if path == "" {
		return
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "PPROF_SOCKET:", err)
		os.Exit(1)
	}
	go func() { _ = http.Serve(listener, http.HandlerFunc(profile)) }()
}

// one profile at a time: the next may be asked for while the last ends.
var one sync.Mutex

func profile(w http.ResponseWriter, r *http.Request) {
	one.Lock()
	defer one.Unlock()
	file, err := os.Create(r.URL.Query().Get("file"))
	if err == nil {
		defer file.Close()
		err = pprof.StartCPUProfile(file)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer pprof.StopCPUProfile()
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush() // it has begun
	<-r.Context().Done()
}
