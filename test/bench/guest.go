package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
)

// executeVariable names the program that runs commands by gVisor's own call; scripts/bench.sh
// makes it of the launcher's benchmark.
const executeVariable = "STACYVM_BENCH_EXECUTE"

// bulk is the size of what is moved.
const bulk = 64 << 20

var (
	small = client.SpawnRequest{MemoryMB: 512, DiskMB: 1024}
	sayOK = client.ExecRequest{Mode: client.ModeArgv, Command: "echo", Args: []string{"ok"}}
)

// box is a sandbox on the gVisor engine, with its system.
type box struct {
	*system
	id string
}

// gvisor measures real sandboxes.
func (b *bench) gvisor(ctx runContext) (err error) {
	var boxes []*box
	defer func() {
		for _, one := range boxes {
			err = one.stop(err)
		}
	}()
	for _, build := range b.builds() {
		s, err := start(build.name, build.binary, filepath.Join(b.dir, "gvisor-"+build.name), b.profiling()...)
		if s != nil && s.Server != nil {
			boxes = append(boxes, &box{system: s})
		}
		if err != nil {
			return err
		}
	}
	for _, one := range boxes {
		sandbox, err := one.Spawn(ctx, small)
		if err != nil {
			return err
		}
		one.id = sandbox.ID
		if err := one.run(ctx, one.id, client.ExecRequest{Command: fmt.Sprintf("head -c %d /dev/zero > /workspace/large", bulk)}); err != nil {
			return err
		}
	}
	b.section("gVisor, image host, over HTTP")
	for _, r := range b.guestRows(boxes) {
		if err := b.measure(ctx, r); err != nil {
			return err
		}
	}
	if b.smoke || b.profile != "" {
		return nil
	}
	if err := b.memory(ctx, boxes[0].system); err != nil {
		return err
	}
	if b.withDocker {
		if err := b.docker(ctx, boxes[0].system); err != nil {
			return err
		}
	}
	return b.remote(ctx)
}

// guestRows are the rows of sandboxes. Boxes are ours and, with -before, the earlier build's.
func (b *bench) guestRows(boxes []*box) []row {
	both := func(name string, turns int, turn func(*box) func(runContext) (sample, error)) row {
		r := row{name: name, turns: turns, ours: side{"ours", turn(boxes[0])}}
		if len(boxes) > 1 {
			r.before = side{"before", turn(boxes[1])}
		}
		return r
	}
	often := func(n int, do func(*box, runContext) error) func(*box) func(runContext) (sample, error) {
		return func(o *box) func(runContext) (sample, error) {
			return repeat(o.system, 1, n, func(ctx runContext) error { return do(o, ctx) })
		}
	}
	run := both("exec true", 10, often(10, (*box).true))
	run.beside = executes(boxes[0])
	stream := both("stream of 64 MiB", 5, often(1, (*box).stream))
	stream.beside = side{"pipe inside", repeat(nil, 1, 1, func(ctx runContext) error {
		return boxes[0].inside(ctx, fmt.Sprintf("head -c %d /dev/zero | cat > /dev/null", bulk))
	})}
	host := side{"cat inside and a socket outside", repeat(nil, 1, 1, func(ctx runContext) error {
		return errors.Join(boxes[0].inside(ctx, "cat /workspace/large > /dev/null"), socket(bulk))
	})}
	down, up := both("file of 64 MiB down", 5, often(1, (*box).download)), both("file of 64 MiB up", 5, often(1, (*box).upload))
	down.beside, up.beside = host, host
	creates := both("create and exec, 4 clients", 3, func(o *box) func(runContext) (sample, error) { return o.creates })
	creates.rate = true
	return []row{
		run,
		both("first byte of a stream", 10, often(10, (*box).firstByte)),
		stream, down, up,
		both("cold create to first output", 8, func(o *box) func(runContext) (sample, error) { return o.create }),
		both("destroy", 8, func(o *box) func(runContext) (sample, error) { return o.destroy }),
		creates,
	}
}

func (o *box) true(ctx runContext) error { return o.run(ctx, o.id, argvTrue) }

func (o *box) inside(ctx runContext, script string) error {
	return o.run(ctx, o.id, client.ExecRequest{Command: script})
}

// firstByte starts a command and waits for its first output.
func (o *box) firstByte(ctx runContext) error { return o.read(ctx, sayOK, 3) }

func (o *box) stream(ctx runContext) error {
	return o.read(ctx, client.ExecRequest{Command: fmt.Sprintf("head -c %d /dev/zero", bulk), Lossless: true}, bulk)
}

// read starts a command and reads so many bytes of its output.
func (o *box) read(ctx runContext, request client.ExecRequest, size int) error {
	process, err := o.Start(ctx, o.id, request)
	if err != nil {
		return err
	}
	got := 0
	for event, err := range o.Output(ctx, o.id, process.ID, client.OutputRequest{}) {
		if err != nil {
			return err
		}
		if got += len(event.Data); got >= size {
			return nil
		}
	}
	return fmt.Errorf("process %s printed %d bytes, not %d", process.ID, got, size)
}

func (o *box) download(ctx runContext) error {
	file, err := o.Download(ctx, o.id, "/workspace/large")
	if err != nil {
		return err
	}
	defer file.Close()
	n, err := io.Copy(io.Discard, file)
	if err == nil && n != bulk {
		err = fmt.Errorf("%d bytes came", n)
	}
	return err
}

func (o *box) upload(ctx runContext) error {
	_, err := o.Upload(ctx, o.id, "/workspace/up", io.LimitReader(zeros{}, bulk), client.UploadOptions{})
	return err
}

// firstOutput is a cold create and the first bytes of a command in it.
func (o *box) firstOutput(ctx runContext) (string, error) {
	sandbox, err := o.Spawn(ctx, small)
	if err != nil {
		return "", err
	}
	return sandbox.ID, o.run(ctx, sandbox.ID, sayOK)
}

func (o *box) create(ctx runContext) (sample, error) {
	id := ""
	one, err := repeat(o.system, 1, 1, func(ctx runContext) (err error) { id, err = o.firstOutput(ctx); return err })(ctx)
	if err != nil {
		return one, err
	}
	return one, o.Destroy(ctx, id)
}

func (o *box) destroy(ctx runContext) (sample, error) {
	id, err := o.firstOutput(ctx)
	if err != nil {
		return sample{}, err
	}
	return repeat(o.system, 1, 1, func(ctx runContext) error { return o.Destroy(ctx, id) })(ctx)
}

// creates is what one create and its first command take when four clients make them.
func (o *box) creates(ctx runContext) (sample, error) {
	const n = 8
	ids := make([]string, n)
	began := time.Now()
	one, err := timed(o.system, func() (times, error) {
		err := each(4, n, func(i int) (err error) { ids[i], err = o.firstOutput(ctx); return err })
		return times{time.Since(began) / n}, err
	})
	if err != nil {
		return one, err
	}
	one.cpu /= n
	return one, each(4, n, func(i int) error { return o.Destroy(ctx, ids[i]) })
}

// executes runs the same program by gVisor's own call, without anything of ours inside.
func executes(o *box) side {
	program := os.Getenv(executeVariable)
	if program == "" {
		return side{}
	}
	return side{"gVisor's Execute", func(ctx runContext) (sample, error) {
		const n = 10
		sandboxes := o.Sentries()
		if len(sandboxes) != 1 {
			return sample{}, fmt.Errorf("%d sandboxes are there, not 1", len(sandboxes))
		}
		cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.bench", "Execute", "-test.benchtime", strconv.Itoa(n)+"x")
		for id := range sandboxes {
			cmd.Dir = filepath.Join(o.DataDir(), "engines", "gvisor")
			cmd.Env = append(os.Environ(), "STACYVM_BENCH_SANDBOX="+id)
		}
		output, err := cmd.CombinedOutput()
		if err != nil {
			return sample{}, fmt.Errorf("%w: %s", err, output)
		}
		words := strings.Fields(string(output))
		for i, word := range words {
			if word == "ns/op" {
				ns, err := strconv.ParseFloat(words[i-1], 64)
				return sample{times: times{time.Duration(ns)}}, err
			}
		}
		return sample{}, fmt.Errorf("no figure in %q", output)
	}}
}

// socket moves so many bytes through a Unix socket of this machine.
func socket(size int64) error {
	dir, err := os.MkdirTemp("", "stacyvm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		return err
	}
	defer listener.Close()
	var group errgroup.Group
	group.Go(func() error {
		conn, err := net.Dial("unix", listener.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{conn}, io.LimitReader(zeros{}, size), make([]byte, 256<<10))
		return err
	})
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
	return errors.Join(err, group.Wait())
}

// zeros is without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
