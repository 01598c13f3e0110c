package cgroup

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	// slice holds the scopes of all launchers of the machine: what is set on it bounds their
	// sandboxes together.
	slice = "stacyvm.slice"
	// scopeTime bounds what is asked of systemd.
	scopeTime = 15 * time.Second
	// stopTime is how long the machine's shutdown waits for sandboxes, which do not answer SIGTERM
	// otherwise than by their end.
	stopTime = 10 * time.Second
)

// enterScope moves this process into a delegated scope of systemd. What a service started ends
// with the service; what is in a scope does not. The scope lasts as long as there is a process in
// it: a launcher that follows a dead one finds it again.
func enterScope(name, description string) error {
	ctx, cancel := context.WithTimeout(context.Background(), scopeTime)
	defer cancel()
	conn, err := systemd.NewSystemdConnectionContext(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		err := startScope(ctx, conn, name, description)
		if !exists(err) {
			return err
		}
		err = joinScope(ctx, conn, name)
		if !gone(err) {
			return err
		}
		// Its last process ended just now.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func startScope(ctx context.Context, conn *systemd.Conn, name, description string) error {
	property := func(name string, value any) systemd.Property {
		return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	done := make(chan string, 1)
	_, err := conn.StartTransientUnitContext(ctx, name, "fail", []systemd.Property{
		systemd.PropDescription(description),
		systemd.PropSlice(slice),
		systemd.PropPids(uint32(os.Getpid())),
		property("Delegate", true),
		property("TasksMax", uint64(math.MaxUint64)), // each sandbox has a limit of its own
		property("TimeoutStopUSec", uint64(stopTime/time.Microsecond)),
		property("CollectMode", "inactive-or-failed"),
	}, done)
	if err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("the job ended with %q", result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// joinScope enters the scope of an earlier launcher, where its sandboxes are.
func joinScope(ctx context.Context, conn *systemd.Conn, name string) error {
	found, err := conn.GetUnitTypePropertyContext(ctx, name, "Scope", "ControlGroup")
	if err != nil {
		return err
	}
	path, _ := found.Value.Value().(string)
	if path == "" {
		return unix.ENOENT
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	return joinAll(string(groups), string(mounts), path)
}

// joinAll enters the group at path in every hierarchy that has it: with version 2 its leaf, as the
// group itself passes on its controllers.
func joinAll(groups, mounts, path string) error {
	joined := false
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) != 3 {
			continue
		}
		controller, _, _ := strings.Cut(fields[1], ",")
		dir, _ := directory(mounts, controller, path)
		if dir == "" {
			continue
		}
		if controller == "" {
			dir = leafOf(dir)
		}
		err := enter(dir, os.Getpid())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		joined = joined || err == nil
	}
	if !joined {
		return unix.ENOENT
	}
	return nil
}

// leafOf gives the leaf of a group of version 2, or the group where it has none: with version 1
// beside it, it has no controllers.
func leafOf(dir string) string {
	inner := filepath.Join(dir, leaf)
	if _, err := os.Stat(inner); err != nil {
		return dir
	}
	return inner
}

func exists(err error) bool { return named(err, "org.freedesktop.systemd1.UnitExists") }

// gone tells that a unit, or its group, is not there any more.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) ||
		named(err, "org.freedesktop.systemd1.NoSuchUnit")
}

func named(err error, name string) bool {
	failure, ok := errors.AsType[dbus.Error](err)
	return ok && failure.Name == name
}
