package agent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	workspace   = "/workspace"
)

// failure is why a process could not be started, with the code that a shell would give.
type failure struct {
	code int32
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func refused(format string, args ...any) *failure {
	return &failure{exitRefused, fmt.Errorf(format, args...)}
}

// launch starts p's program. A failure is the process's result.
func (a *Agent) launch(p *process, req *guestv1.StartRequest) *failure {
	who, err := a.lookupUser(req.User)
	if err != nil {
		return refused("%w", err)
	}
	p.about.user = who.name
	workdir, fail := a.chooseWorkdir(req.Workdir, who)
	p.about.workdir = workdir
	if fail != nil {
		return fail
	}
	env := a.environment(who, req)
	program, fail := a.find(req.Argv[0], env["PATH"], workdir)
	if fail != nil {
		return fail
	}
	files, err := p.open(req, who, a.null)
	if err != nil {
		return refused("%w", err)
	}
	defer files.closeTheirs()
	attr := &syscall.ProcAttr{Dir: a.path(workdir), Env: pairs(env), Files: files.theirs(), Sys: &syscall.SysProcAttr{
		Credential: who.credential(), Setpgid: p.terminal == nil,
		Setsid: p.terminal != nil, Setctty: p.terminal != nil,
	}}
	if p.ownMark != "" {
		attr.Sys.Cloneflags = marked
	}
	if err := a.reaper.start(program, req.Argv, attr, p.running, func() { a.noteOOM(); p.collect() }); err != nil {
		files.closeOurs()
		return startFailure(req.Argv[0], err)
	}
	if req.TimeoutMs > 0 {
		p.timer = time.AfterFunc(time.Duration(req.TimeoutMs)*time.Millisecond, p.expire)
	}
	a.collectOutput(p, files)
	return nil
}

// running is called before anybody can learn of the process's end.
func (p *process) running(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
}

// collectOutput starts what lives as long as the process.
func (a *Agent) collectOutput(p *process, files files) {
	for s, file := range map[*stream]*os.File{p.stdout: files.stdout, p.stderr: files.stderr} {
		if file == nil {
			close(s.ended)
			continue
		}
		s.file = file
		if p.terminal != nil {
			s.leader, s.terminal = p.dead, true
		}
		a.work.Go(func() { s.pump(a.stop) })
	}
	a.work.Go(func() {
		p.finish(a.stop)
		a.table.markExited(p)
	})
}

// startFailure tells "there is no such program" from "it cannot be run".
func startFailure(name string, err error) *failure {
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return refused("%s: the sandbox has no room for another process: %w", name, err)
	case errors.Is(err, unix.ENOENT):
		return &failure{exitNotFound, fmt.Errorf("%s: its interpreter or its directory is missing: %w", name, err)}
	default:
		return refused("%s: %w", name, err)
	}
}

// path gives the place of a sandbox's path on the file system that the agent sees.
func (a *Agent) path(name string) string {
	return filepath.Join(a.config.Root, filepath.Join("/", name))
}

// imageWorkdir completes what an image says of its working directory: a relative one starts at the
// root.
func imageWorkdir(dir string) string {
	if dir == "" {
		return workspace
	}
	return filepath.Join("/", dir)
}

// chooseWorkdir chooses the working directory, and makes it when it is under /workspace or the
// image asks for it.
func (a *Agent) chooseWorkdir(asked string, who user) (string, *failure) {
	dir := asked
	switch {
	case asked == "":
		dir = a.workdir
	case !filepath.IsAbs(asked):
		dir = filepath.Join(workspace, asked)
	}
	dir = filepath.Clean(dir)
	info, err := os.Stat(a.path(dir))
	switch {
	case err == nil && info.IsDir():
		return dir, nil
	case dir == workspace && asked == "":
		return "/", nil
	case err == nil:
		return dir, refused("workdir %s is not a directory", dir)
	case errors.Is(err, os.ErrNotExist) && (asked == "" || strings.HasPrefix(dir+"/", workspace+"/")):
		return dir, a.makeWorkdir(dir, who)
	default:
		return dir, refused("workdir: %w", err)
	}
}

// makeWorkdir gives the directories that it makes to the user who will work there.
func (a *Agent) makeWorkdir(dir string, who user) *failure {
	var made []string
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if _, err := os.Lstat(a.path(d)); err == nil {
			break
		}
		made = append(made, d)
	}
	if err := os.MkdirAll(a.path(dir), 0o755); err != nil {
		return refused("make workdir: %w", err)
	}
	if who.credential() == nil {
		return nil
	}
	for _, d := range made {
		if err := os.Lchown(a.path(d), int(who.uid), int(who.gid)); err != nil {
			return refused("make workdir: %w", err)
		}
	}
	return nil
}

// environment puts the request's variables on top of the sandbox's on top of the defaults.
func (a *Agent) environment(who user, req *guestv1.StartRequest) map[string]string {
	env := map[string]string{"PATH": defaultPath, "HOME": a.path(who.home), "USER": who.name, "LANG": "C.UTF-8"}
	if req.Terminal != nil {
		env["TERM"] = "xterm-256color"
	}
	for _, more := range []map[string]string{a.env, req.Env} {
		maps.Copy(env, more)
	}
	return env
}

func pairs(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// find gives the program's file as execvp(3) would.
func (a *Agent) find(name, path, workdir string) (string, *failure) {
	if strings.Contains(name, "/") {
		file := name
		if !filepath.IsAbs(file) {
			file = filepath.Join(a.path(workdir), file)
		}
		info, err := os.Stat(file)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return "", &failure{exitNotFound, fmt.Errorf("%s: no such program", name)}
		case err == nil && info.IsDir():
			return "", refused("%s: is a directory", name)
		}
		return file, nil // what else is wrong the kernel will say
	}
	found := ""
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		info, err := os.Stat(file)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if info.Mode()&0o111 != 0 {
			return file, nil
		}
		found = file
	}
	if found != "" && name != "" {
		return "", refused("%s: %s is not executable", name, found)
	}
	return "", &failure{exitNotFound, fmt.Errorf("%s: command not found", name)}
}
