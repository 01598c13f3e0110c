package control

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// confirmMost is how many creates are confirmed in one transaction.
const confirmMost = 32

// confirmation is a create that is confirmed with others.
type confirmation struct {
	ctx      context.Context
	creation creation
	sandbox  stacyvm.Sandbox
	created  worker.Created

	done    bool // else it is to be confirmed alone
	running stacyvm.Sandbox
	err     error
}

// confirmTogether makes the sandboxes of several creates running. Those that something else has
// happened to, and all of them when the transaction fails and was not kept for certain, are left to
// be confirmed alone.
func (s *Service) confirmTogether(all []*confirmation) {
	// in one order, so that two who change the same rows do not wait for each other crosswise
	slices.SortFunc(all, func(a, b *confirmation) int { return cmp.Compare(a.sandbox.ID, b.sandbox.ID) })
	started := make([]store.Started, len(all))
	byID := make(map[stacyvm.SandboxID]*confirmation, len(all))
	for i, one := range all {
		started[i] = store.Started{
			ID:         one.sandbox.ID,
			Fence:      one.sandbox.Fence,
			RuntimeID:  one.created.RuntimeID,
			Unenforced: one.created.Unenforced,
		}
		byID[one.sandbox.ID] = one
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(all[0].ctx), storeWithin)
	defer cancel()
	var running []stacyvm.Sandbox
	err := s.store.Update(ctx, func(tx store.Tx) (err error) {
		if running, err = tx.Sandboxes().Start(ctx, started); err != nil {
			return err
		}
		var answers []store.IdempotencyRecord
		for _, sandbox := range running {
			c := byID[sandbox.ID].creation
			if c.key.Key == "" {
				continue
			}
			answer, err := c.answer(sandbox)
			if err != nil {
				return err
			}
			answers = append(answers, answer)
		}
		return tx.Idempotency().Finish(ctx, answers...)
	})
	if err != nil && stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		return
	}
	for _, sandbox := range running {
		one := byID[sandbox.ID]
		one.done, one.running, one.err = true, sandbox, err
		if err != nil { // perhaps it was kept: reconciliation finishes what was not
			one.running = one.sandbox
		}
	}
}

// answer is the record of a key with the answer to it.
func (c creation) answer(sandbox stacyvm.Sandbox) (store.IdempotencyRecord, error) {
	body, err := json.Marshal(sandbox)
	answer := c.record(sandbox.ID)
	answer.Status, answer.Body = statusCreated, body
	return answer, err
}
