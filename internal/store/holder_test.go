package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

const (
	// heldFor is the lease of a holder that is stopped, and staleWrites what it tries after its
	// first refusal.
	heldFor     = 300 * time.Millisecond
	staleWrites = 100
)

// held is the one sandbox that holder and successor write.
const held stacyvm.SandboxID = "sb-aaaaaaaaaaaaaaaaaaaaaaaaaa"

func takeHeld(ctx context.Context, s store.Store, holder stacyvm.WorkerID) (fence stacyvm.Fence, err error) {
	err = s.Update(ctx, func(tx store.Tx) error {
		lease, err := tx.Leases().Acquire(ctx, store.LeaseRequest{
			Resource: string(held), Type: "sandbox", Holder: holder, Session: string(holder), TTL: heldFor,
		})
		fence = stacyvm.Fence{Incarnation: 1, Epoch: lease.Epoch}
		return err
	})
	return fence, err
}

func writeHeld(ctx context.Context, s store.Store, fence stacyvm.Fence, text string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Sandboxes().Apply(ctx, held, fence, store.Change{RuntimeID: text})
		return err
	})
}

// childHold takes the lease for each line that it reads, and writes, knowing nothing of the time,
// until it is refused; then it tries staleWrites more times, and prints how many writes were
// refused and how many were accepted after the first refusal.
func childHold(ctx context.Context, s store.Store) error {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fence, err := takeHeld(ctx, s, "holder")
		if err != nil {
			return err
		}
		refused, accepted := 0, 0
		for first := true; refused+accepted < staleWrites; {
			err := writeHeld(ctx, s, fence, "holder")
			switch {
			case stacyvm.CodeOf(err) == stacyvm.CodeStaleEpoch:
				refused++
			case err != nil && stacyvm.CodeOf(err) != stacyvm.CodeUnavailable:
				return err
			case err == nil && refused > 0:
				accepted++
			case err == nil && first:
				fmt.Println("holding")
				first = false
			}
		}
		fmt.Println(refused, accepted)
	}
	return nil
}

// TestStoppedHolderWritesNothing stops a holder in the middle of its writing, for longer than its
// lease, and lets it go on after another has taken over.
func TestStoppedHolderWritesNothing(t *testing.T) {
	onEachDriver(t, func(t *testing.T, config store.Config) {
		s := open(t, config)
		err := s.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.Sandboxes().Insert(t.Context(), stacyvm.Sandbox{ID: held, State: stacyvm.StateRunning, Fence: stacyvm.Fence{Incarnation: 1}})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		c := startChild(t, "hold", config)
		c.start(t)
		mayWrite := turns(t, config)
		rounds := testneed.Often(2, 100)
		for round := range rounds {
			if _, err := fmt.Fprintln(c.input, "go"); err != nil {
				t.Fatal(err)
			}
			if got := c.next(t); got != "holding" {
				t.Fatalf("the holder says %q", got)
			}
			mark := fmt.Sprint("successor ", round)
			overtake(t, s, c, mayWrite, mark)
			var refused, accepted int
			if _, err := fmt.Sscan(c.next(t), &refused, &accepted); err != nil {
				t.Fatal(err)
			}
			row := readHeld(t, s)
			if refused != staleWrites || accepted != 0 || row.RuntimeID != mark || row.WorkerID != "successor" {
				t.Fatalf("round %d: %d writes refused, %d accepted; the row is %s's with %q", round, refused, accepted, row.WorkerID, row.RuntimeID)
			}
			if err := letGo(t.Context(), s, row.Fence.Epoch); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d writes of a stopped holder were refused", rounds*staleWrites)
		if err := c.input.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("%v: %s", err, c.errors)
		}
	})
}

// overtake stops the child, takes over what it holds, writes, and lets it go on.
func overtake(t *testing.T, s store.Store, c *child, mayWrite func() bool, mark string) {
	t.Helper()
	signal := func(signal syscall.Signal) {
		if err := c.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	stop := func() { // and wait until each of its threads stands
		signal(syscall.SIGSTOP)
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(c.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
			t.Fatalf("the child did not stop: %v, %v", status, err)
		}
	}
	stop()
	defer signal(syscall.SIGCONT)
	for !mayWrite() { // it was stopped while it had the only turn: let it finish, and stop it at another moment
		signal(syscall.SIGCONT)
		time.Sleep(time.Millisecond)
		stop()
	}
	fence, err := takeHeld(t.Context(), s, "successor")
	for stacyvm.CodeOf(err) == stacyvm.CodeConflict { // until its time has passed
		time.Sleep(10 * time.Millisecond)
		fence, err = takeHeld(t.Context(), s, "successor")
	}
	if err == nil {
		err = writeHeld(t.Context(), s, fence, mark)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// turns reports whether nobody else is writing: processes on one file take turns, and one that is
// stopped keeps its own. A server takes it away.
func turns(t *testing.T, config store.Config) func() bool {
	if config.Driver != "" {
		return func() bool { return true }
	}
	db, err := sql.Open("sqlite", "file:"+config.Path+"?_txlock=immediate&_pragma=busy_timeout(0)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return func() bool {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			return false
		}
		return tx.Rollback() == nil
	}
}

func readHeld(t *testing.T, s store.Store) (row stacyvm.Sandbox) {
	t.Helper()
	err := s.View(t.Context(), func(tx store.Tx) (err error) {
		row, err = tx.Sandboxes().Get(t.Context(), held)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return row
}

func letGo(ctx context.Context, s store.Store, epoch int64) error {
	return s.Update(ctx, func(tx store.Tx) error { return tx.Leases().Release(ctx, string(held), "successor", epoch) })
}
