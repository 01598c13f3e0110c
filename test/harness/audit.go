package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is one process of the machine.
type Process struct {
	PID     int
	Program string // path of its program
	Command string // its command line, in words
}

// ProcessesOf lists what runs from below a directory or has it on its command line.
func ProcessesOf(dir string) []Process {
	var found []Process
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		program, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "exe"))
		command := strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")
		if strings.HasPrefix(program, dir+"/") || strings.Contains(command, dir) {
			found = append(found, Process{pid, program, command})
		}
	}
	return found
}

// Launcher gives the launcher's process id, 0 without one.
func (p *Program) Launcher() int {
	for _, process := range ProcessesOf(p.Dir) {
		if strings.Contains(process.Program, "stacyvm-sentry") && strings.Contains(process.Command, " launch ") {
			return process.PID
		}
	}
	return 0
}

// Sentries gives the sandboxes that have a sentry process, with its process id. The sandbox's
// directory is on the process's command line: …/sandboxes/ID.
func (p *Program) Sentries() map[string]int {
	found := map[string]int{}
	for _, process := range ProcessesOf(p.Dir) {
		if !strings.Contains(process.Command, " boot ") {
			continue
		}
		if _, after, ok := strings.Cut(process.Command, "/sandboxes/"); ok {
			id, _, _ := strings.Cut(after, " ")
			id, _, _ = strings.Cut(id, "/")
			found[id] = process.PID
		}
	}
	return found
}

// Leftovers lists what of the program is on the machine: processes, mounts, control groups.
func (p *Program) Leftovers() []string { return append(Leftovers(p.Dir), p.ControlGroups()...) }

// Leftovers lists the processes and mounts that belong to a directory.
func Leftovers(dir string) []string {
	var left []string
	for _, p := range ProcessesOf(dir) {
		left = append(left, fmt.Sprintf("process %d %s", p.PID, p.Command))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		left = append(left, "mounts unknown: "+err.Error())
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	return left
}

// ControlGroups lists the groups of the server's sandboxes, whose names begin with a hash of the
// engine's directory.
func (p *Program) ControlGroups() []string {
	dir, err := filepath.EvalSymlinks(filepath.Join(p.DataDir(), "engines", "gvisor"))
	if err != nil {
		return nil // no engine directory, no group
	}
	sum := sha256.Sum256([]byte(dir))
	prefix := "stacyvm-" + hex.EncodeToString(sum[:4]) + "-"
	var found []string
	// groups come and go meanwhile
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.HasPrefix(entry.Name(), prefix) {
			found = append(found, "control group "+path)
		}
		return nil
	})
	return found
}
