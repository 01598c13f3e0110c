// Command bundle compresses one program for package internal/bundle. `make build` calls it:
//
//	go run ./scripts/bundle -in bin/parts/stacyvm-guest  -out internal/bundle/files/stacyvm-guest.zst
//	go run ./scripts/bundle -in bin/parts/stacyvm-sentry -out internal/bundle/files/stacyvm-sentry.zst -strip-blob
//
// -strip-blob first overwrites gVisor's embedded checkpoint helper with zeros: 46 MB that are used
// only for checkpoints in a cloud store, which the product does not have. The Go linker offers no
// way to leave an embedded file out.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const gvisorModule = "gvisor.dev/gvisor"

func main() {
	in := flag.String("in", "", "the linked program")
	out := flag.String("out", "", "the compressed file to write")
	strip := flag.Bool("strip-blob", false, "zero gVisor's embedded checkpoint helper")
	flag.Parse()
	if err := run(*in, *out, *strip); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func run(in, out string, strip bool) error {
	if in == "" || out == "" {
		return errors.New("-in and -out are needed")
	}
	program, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	if strip {
		blob, err := checkpointHelper()
		if err != nil {
			return err
		}
		if err := zero(program, blob); err != nil {
			return fmt.Errorf("%s: %w", in, err)
		}
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return err
	}
	defer encoder.Close()
	return writeFile(out, encoder.EncodeAll(program, nil))
}

// zero overwrites the only occurrence of blob. None means that the linker or gVisor has changed,
// two that the wrong bytes could be hit: both must stop the build, because the program would be
// wrong or 46 MB too big.
func zero(program, blob []byte) error {
	if len(blob) == 0 {
		return errors.New("the blob is empty")
	}
	start := bytes.Index(program, blob)
	if start < 0 {
		return errors.New("the blob is not in the program")
	}
	if bytes.Contains(program[start+1:], blob) {
		return errors.New("the blob is in the program more than once")
	}
	clear(program[start : start+len(blob)])
	return nil
}

func checkpointHelper() ([]byte, error) {
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", gvisorModule)
	list.Stderr = os.Stderr
	dir, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", gvisorModule, err)
	}
	return os.ReadFile(
		filepath.Join(strings.TrimSpace(string(dir)), "runsc", "checkpointgofer", "checkpointgofer.bin"),
	)
}

// writeFile replaces path in one step, so that an interrupted build leaves no half file for the
// next one.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + ".tmp"
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
