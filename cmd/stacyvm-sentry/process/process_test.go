package process

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// run starts a process that looks like one of the sandbox with that directory.
func run(t *testing.T, bundle, program string) int {
	t.Helper()
	shell := exec.Command("sh", "-c", "echo up; "+program, "--bundle="+bundle)
	shell.Args[0] = "runsc-sandbox"
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := shell.StdoutPipe()
	if err == nil {
		err = shell.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := shell.Process.Pid
	t.Cleanup(func() {
		_ = unix.Kill(-pid, unix.SIGKILL) // it may have ended
		_ = shell.Process.Release()
	})
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestFindAndKill(t *testing.T) {
	dir := t.TempDir()
	first, second := run(t, filepath.Join(dir, "a"), "sleep 1000; :"), run(t, filepath.Join(dir, "a"), "sleep 1000; :")
	other, elsewhere := run(t, filepath.Join(dir, "b"), "sleep 1000; :"), run(t, filepath.Join(dir, "deeper", "a"), "sleep 1000; :")
	var table Table
	found := table.Find(dir)
	if len(found) != 2 || len(found["a"]) != 2 || len(found["b"]) != 1 || found["b"][0] != other {
		t.Fatalf("%v; want %d and %d, and %d", found, first, second, other)
	}
	if !table.Belongs(first, filepath.Join(dir, "a")) || table.Belongs(first, filepath.Join(dir, "b")) || table.Belongs(0, "") || table.Belongs(1, dir) {
		t.Error("whose is it?")
	}
	if err := table.Kill(append(found["a"], 1)); err != nil { // process 1 is nobody's
		t.Fatal(err)
	}
	if found := table.Find(dir); len(found) != 1 || table.Belongs(first, filepath.Join(dir, "a")) {
		t.Errorf("%v", found)
	}
	if !table.Belongs(elsewhere, filepath.Join(dir, "deeper", "a")) {
		t.Error("a stranger was ended")
	}
	if err := table.Kill([]int{first, second}); err != nil {
		t.Errorf("kill what is gone: %v", err)
	}
}

func TestWatch(t *testing.T) {
	sentry, gofer := run(t, "/none/a", "kill -9 $$"), run(t, "/none/a", "exit 3")
	exits, err := Table{}.Watch(sentry, gofer)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		switch e := <-exits; {
		case !e.Known || e.At.IsZero():
			t.Errorf("%+v", e)
		case e.Process == "sentry" && e.Status.Signal() == unix.SIGKILL, e.Process == "gofer" && e.Status.ExitStatus() == 3:
		default:
			t.Errorf("%+v", e)
		}
	}
	if _, err := (Table{}).Watch(sentry, gofer); err == nil {
		t.Error("what is gone is watched")
	}
}
