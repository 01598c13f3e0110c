package local

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// making is a create under way: what its steps hand to each other.
type making struct {
	worker *Worker
	entry  *entry
	engine engine.Engine
	record record

	written  bool // the record
	root     image.Root
	turn     bool // one of the worker's starts is held
	foreign  bool // there is a runtime without a record: it stays, and so does its image
	instance engine.Instance
	made     *connection
	created  worker.Created
}

// steps are those of a create, in their order. What comes between an image and a runtime, such as
// a network, is a line here.
func (m *making) steps() steps {
	return steps{
		{name: "record", do: m.intend, undo: m.forget},
		{name: "image", within: imageWithin, do: m.resolve, undo: m.releaseImage},
		{name: "turn", do: m.await},
		{name: "start", within: engineWithin, do: m.start, undo: m.remove},
		{name: "first answer", within: statusWithin, do: m.complete, undo: m.disconnect},
	}
}

// intend writes the record of a create before anything is made.
func (m *making) intend(context.Context) error {
	m.entry.mu.Lock()
	defer m.entry.mu.Unlock()
	r := m.record
	r.Fence = m.entry.fence
	if err := m.worker.journal.keep(m.entry.id, r); err != nil {
		return err
	}
	m.written, m.entry.record = true, &r
	return nil
}

// forget makes a tombstone of the record of a create that left nothing; another create may follow.
func (m *making) forget(context.Context) error {
	m.entry.mu.Lock()
	defer m.entry.mu.Unlock()
	if !m.written || m.entry.record == nil { // an earlier record stays
		return nil
	}
	if err := m.worker.journal.writeTombstone(
		m.entry.id,
		tombstone{Fence: m.entry.fence, Destroyed: m.entry.destroyed},
	); err != nil {
		return err
	}
	m.entry.record = nil
	return nil
}

func (m *making) resolve(ctx context.Context) (err error) {
	m.root, err = m.worker.images.Resolve(ctx, m.record.Request.Spec.Image, string(m.entry.id))
	return err
}

func (m *making) releaseImage(context.Context) error {
	if m.foreign {
		return nil
	}
	return m.worker.images.Release(string(m.entry.id))
}

// await takes one of the starts at a time. A control plane has those wait that it knows of; this
// holds for all of them together, and in their order.
func (m *making) await(ctx context.Context) error {
	err := m.worker.starts.Acquire(ctx, 1)
	m.turn = err == nil
	return err
}

// leave lets the next one start.
func (m *making) leave() {
	if m.turn {
		m.turn = false
		m.worker.starts.Release(1)
	}
}

func (m *making) start(ctx context.Context) (err error) {
	m.instance, err = m.engine.Create(ctx, m.worker.spec(m.entry, m.record, m.root))
	m.foreign = stacyvm.CodeOf(err) == stacyvm.CodeConflict
	return err
}

func (m *making) remove(ctx context.Context) error {
	if m.foreign {
		return nil
	}
	return m.worker.removeRuntime(ctx, m.entry.id, &m.record, m.instance)
}

func (m *making) complete(ctx context.Context) (err error) {
	m.made = connect(m.instance, m.record.Secret)
	m.created, err = m.worker.complete(ctx, m.entry, m.instance, m.worker.journal.extend)
	return err
}

func (m *making) disconnect(context.Context) error {
	m.made.transport.Close()
	return nil
}
