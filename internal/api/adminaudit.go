package api

import (
	"context"
	"encoding/csv"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// AdminCall is a line of the administrators' audit.
type AdminCall struct {
	ID         int64     `json:"id"`
	Actor      string    `json:"actor" doc:"X-User-ID of the caller; empty when there was none."`
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	Status     int       `json:"status" doc:"Of the answer."`
	DurationMS int64     `json:"duration_ms"`
	RequestID  string    `json:"request_id"`
	RemoteAddr string    `json:"remote_addr"`
	UserAgent  string    `json:"user_agent"`
	TenantID   string    `json:"tenant_id"`
	CreatedAt  time.Time `json:"created_at"`
}

func adminCallOf(c stacyvm.AdminCall) AdminCall {
	return AdminCall{
		ID:         c.ID,
		Actor:      c.Actor,
		Method:     c.Method,
		Path:       c.Path,
		Status:     c.Status,
		DurationMS: c.Duration.Milliseconds(),
		RequestID:  c.RequestID,
		RemoteAddr: c.RemoteAddr,
		UserAgent:  c.UserAgent,
		TenantID:   c.TenantID,
		CreatedAt:  c.CreatedAt.UTC(),
	}
}

type adminAuditInput struct {
	Limit  int    `query:"limit" minimum:"1" default:"100" doc:"At most so many lines; more than 500 are 500."`
	Actor  string `query:"actor" maxLength:"256" doc:"Of this caller alone."`
	Method string `query:"method" maxLength:"16" doc:"Such as POST."`
	Status int    `query:"status" minimum:"100" maximum:"599" doc:"Of the answer."`
	Path   string `query:"path" maxLength:"2048" doc:"Part of the path."`
	Before int64  `query:"before" minimum:"1" doc:"Lines older than the one with this id: the next page of a long list."`
	Format string `query:"format" enum:"json,csv" default:"json"`
}

const csvFile = "stacyvm-admin-audit.csv"

func (a *api) auditRoutes() {
	register(a, route{method: http.MethodGet, path: "/admin/audit", id: "admin-audit", tag: tagSystem,
		summary: "Read who called administrative routes, newest first", responses: map[string]*huma.Response{"200": {
			Description: "The lines; with format=csv as a table for a spreadsheet.",
			Content: map[string]*huma.MediaType{
				"application/json": {Schema: a.schema(reflect.TypeFor[[]AdminCall]())},
				"text/csv":         {Schema: &huma.Schema{Type: "string"}},
			},
		}}}, a.adminAudit)
}

func (a *api) adminAudit(ctx context.Context, in *adminAuditInput) (*written, error) {
	calls, err := a.Service.AdminAudit(ctx, control.AdminAuditRequest{
		Actor:  in.Actor,
		Method: strings.ToUpper(in.Method),
		Path:   in.Path,
		Status: in.Status,
		Before: in.Before,
		Limit:  in.Limit,
	})
	if err != nil {
		return nil, err
	}
	if in.Format != "csv" {
		return listed(calls, nil, adminCallOf)
	}
	return &written{func(c huma.Context) { writeAuditCSV(c, each(calls, adminCallOf)) }}, nil
}

func writeAuditCSV(c huma.Context, lines []AdminCall) {
	c.SetHeader("Content-Type", "text/csv")
	c.SetHeader("Content-Disposition", `attachment; filename="`+csvFile+`"`)
	c.SetStatus(http.StatusOK)
	w := csv.NewWriter(c.BodyWriter())
	defer w.Flush()
	_ = w.Write(
		[]string{
			"id",
			"created_at",
			"actor",
			"method",
			"path",
			"status",
			"duration_ms",
			"request_id",
			"remote_addr",
			"user_agent",
		},
	)
	for _, l := range lines {
		_ = w.Write([]string{
			strconv.FormatInt(
				l.ID,
				10,
			),
			l.CreatedAt.Format(time.RFC3339Nano),
			cell(l.Actor),
			cell(l.Method),
			cell(l.Path),
			strconv.Itoa(l.Status),
			strconv.FormatInt(l.DurationMS, 10),
			cell(l.RequestID),
			cell(l.RemoteAddr),
			cell(l.UserAgent),
		})
	}
}

// cell keeps a spreadsheet from taking what a caller wrote for a formula.
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}
