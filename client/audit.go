package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// AdminCall is a line of the administrators' audit: one call of an administrative route.
type AdminCall struct {
	ID         int64     `json:"id"`
	Actor      string    `json:"actor"`
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	Status     int       `json:"status"` // of the answer
	DurationMS int64     `json:"duration_ms"`
	RequestID  string    `json:"request_id"`
	RemoteAddr string    `json:"remote_addr"`
	UserAgent  string    `json:"user_agent"`
	TenantID   string    `json:"tenant_id"`
	CreatedAt  time.Time `json:"created_at"`
}

// AdminAuditRequest selects lines of the administrators' audit; zero fields select all.
type AdminAuditRequest struct {
	Actor  string
	Method string
	Path   string // part of the path
	Status int    // of the answer
	Before int64  // lines older than the one with this ID: the next page of a long list
	Limit  int    // 0: 100; the server gives at most 500
}

func (r AdminAuditRequest) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{"actor": r.Actor, "method": r.Method, "path": r.Path} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, value := range map[string]int64{"status": int64(r.Status), "before": r.Before, "limit": int64(r.Limit)} {
		if value != 0 {
			query.Set(name, strconv.FormatInt(value, 10))
		}
	}
	return query
}

// AdminAudit reads who called administrative routes, newest first. CodeForbidden: the key is not
// the administrator's.
func (c *Client) AdminAudit(ctx context.Context, r AdminAuditRequest) ([]AdminCall, error) {
	var calls []AdminCall
	err := c.call(ctx, request{method: http.MethodGet, path: "/admin/audit", query: r.query(), repeat: true}, &calls)
	return calls, err
}

// AdminAuditCSV gives the same as a table for spreadsheets. Close it.
func (c *Client) AdminAuditCSV(ctx context.Context, r AdminAuditRequest) (io.ReadCloser, error) {
	query := r.query()
	query.Set("format", "csv")
	response, err := c.send(ctx, request{method: http.MethodGet, path: "/admin/audit", query: query, long: true})
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}
