package store

import (
	"context"
	"database/sql"
	"sync"
)

const (
	// keptTexts and keptLength bound what is kept prepared; lists of many values are not worth it.
	keptTexts  = 256
	keptLength = 2048
)

// prepared keeps statements parsed between uses. It belongs to one connection, or to a pool of them.
type prepared struct {
	on interface {
		PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	}

	mu    sync.Mutex
	known map[string]*sql.Stmt
}

// find gives the statement for a text, nil when it is not worth keeping.
func (p *prepared) find(ctx context.Context, text string) (*sql.Stmt, error) {
	if len(text) > keptLength {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if stmt, ok := p.known[text]; ok {
		return stmt, nil
	}
	if len(p.known) >= keptTexts {
		return nil, nil
	}
	stmt, err := p.on.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	if p.known == nil {
		p.known = map[string]*sql.Stmt{}
	}
	p.known[text] = stmt
	return stmt, nil
}

// preparedConn is a connection with its statements.
type preparedConn struct {
	*sql.Conn
	prepared
}

func newPreparedConn(conn *sql.Conn) *preparedConn {
	return &preparedConn{Conn: conn, prepared: prepared{on: conn}}
}

// QueryContext implements querier.
func (c *preparedConn) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	stmt, err := c.find(ctx, text)
	if err != nil {
		return nil, err
	}
	if stmt == nil {
		return c.Conn.QueryContext(ctx, text, args...)
	}
	return stmt.QueryContext(ctx, args...)
}

// ExecContext implements querier.
func (c *preparedConn) ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error) {
	stmt, err := c.find(ctx, text)
	if err != nil {
		return nil, err
	}
	if stmt == nil {
		return c.Conn.ExecContext(ctx, text, args...)
	}
	return stmt.ExecContext(ctx, args...)
}

// preparedTx is a transaction that uses its pool's statements.
type preparedTx struct {
	*sql.Tx
	pool *prepared
}

// QueryContext implements querier.
func (t preparedTx) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	stmt, err := t.pool.find(ctx, text)
	if err != nil {
		return nil, err
	}
	if stmt == nil {
		return t.Tx.QueryContext(ctx, text, args...)
	}
	return t.StmtContext(ctx, stmt).QueryContext(ctx, args...)
}
