package storetest

import (
	"context"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// step is something done to a database that gives a value.
type step[T any] func(ctx context.Context, tx store.Tx) (T, error)

// done runs a step in a transaction of its own; it must succeed.
func done[T any](r *rig, do step[T]) (value T) {
	r.Helper()
	r.must(r.try(func(ctx context.Context, tx store.Tx) (err error) {
		value, err = do(ctx, tx)
		return err
	}))
	return value
}

// refused runs a step whose error must have the code. A refusal does not end the transaction: a
// read follows it there.
func refused[T any](r *rig, code stacyvm.Code, do step[T]) {
	r.Helper()
	r.update(func(ctx context.Context, tx store.Tx) error {
		_, err := do(ctx, tx)
		r.want(code, err)
		_, err = tx.Templates().List(ctx, store.Page{})
		return err
	})
}

// nothing makes a step of what gives an error alone.
func nothing(do func(ctx context.Context, tx store.Tx) error) step[struct{}] {
	return func(ctx context.Context, tx store.Tx) (struct{}, error) { return struct{}{}, do(ctx, tx) }
}

// same compares what was kept with what it should be.
func same[T any](r *rig, want, got T) {
	r.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		r.Errorf("kept otherwise:\n%s", diff)
	}
}

// walk reads a list in pages of two; it must be the whole list, and its keys those in want.
func walk[T any](r *rig, at func(T) store.Cursor, want []string, list func(ctx context.Context, tx store.Tx, page store.Page) ([]T, error)) {
	r.Helper()
	read := func(page store.Page) (rows []T) {
		r.view(func(ctx context.Context, tx store.Tx) (err error) {
			rows, err = list(ctx, tx, page)
			return err
		})
		return rows
	}
	keys := func(rows []T) (keys []string) {
		for _, row := range rows {
			keys = append(keys, at(row).ID)
		}
		return keys
	}
	if whole := keys(read(store.Page{})); !slices.Equal(whole, want) {
		r.Errorf("listed %v, want %v", whole, want)
	}
	var walked []string
	page := store.Page{Limit: 2}
	for rows := read(page); len(rows) > 0; rows = read(page) {
		if len(rows) > page.Limit || len(walked) > len(want) {
			r.Fatalf("a page of %d after %v", len(rows), walked)
		}
		walked = append(walked, keys(rows)...)
		page.After = at(rows[len(rows)-1])
	}
	if !slices.Equal(walked, want) {
		r.Errorf("walked %v, want %v", walked, want)
	}
}
