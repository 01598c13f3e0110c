package api

import (
	"context"
	"net/http"
	"time"

	"github.com/stacyvm/stacyvm/internal/control/health"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Report is how the whole installation is now, and what went wrong lately.
type Report struct {
	Status    string         `json:"status" enum:"ok,problems" doc:"problems: at least one thing is wrong now."`
	CheckedAt time.Time      `json:"checked_at"`
	Version   string         `json:"version"`
	Uptime    string         `json:"uptime" example:"1h2m3s"`
	Problems  []Problem      `json:"problems" doc:"What is wrong now."`
	Known     bool           `json:"known" doc:"false: the database does not answer, and sandboxes and past faults are not known."`
	Workers   []WorkerReport `json:"workers" doc:"Without the database, those that this server remembers."`
	Sandboxes map[string]int `json:"sandboxes,omitempty" doc:"How many are in each state; states without any are left out."`
	Reasons   map[string]int `json:"reasons" doc:"Why sandboxes are unhealthy or in error, with their numbers; of the newest thousand."`
	NotWell   []NotWell      `json:"not_well" doc:"Up to 20 sandboxes that are unhealthy or in error, the last first."`
	Happened  []Happening    `json:"happened" doc:"Up to 20 kinds of faults within the last 24 hours, and their ends, the last first."`
}

// Problem is one thing that is wrong now.
type Problem struct {
	About  string     `json:"about" enum:"server,database,disk,worker,audit,sandboxes"`
	Name   string     `json:"name,omitempty" doc:"Of the worker or server."`
	Since  *time.Time `json:"since,omitempty" doc:"When it began, or the last good sign came."`
	Detail string     `json:"detail"`
	Fix    string     `json:"fix" doc:"What to do."`
}

// WorkerReport is a worker, asked just now.
type WorkerReport struct {
	Worker
	Asked   bool   `json:"asked" doc:"This server can call it, and did."`
	Answers bool   `json:"answers"`
	Error   string `json:"error,omitempty" doc:"Why it does not answer."`
}

// NotWell is a sandbox that is unhealthy or in error.
type NotWell struct {
	ID       string    `json:"id"`
	State    string    `json:"state"`
	Reason   string    `json:"reason"`
	Detail   string    `json:"detail,omitempty"`
	Since    time.Time `json:"since"`
	WorkerID string    `json:"worker_id"`
}

// Happening is an event, as often as it came for the same reason.
type Happening struct {
	Type      string         `json:"type" example:"worker.started"`
	Count     int            `json:"count"`
	First     time.Time      `json:"first"`
	Last      time.Time      `json:"last"`
	SandboxID string         `json:"sandbox_id,omitempty" doc:"Of the last one."`
	Data      map[string]any `json:"data,omitempty" doc:"Of the last one."`
}

func (a *api) reportRoutes() {
	register(a, route{method: http.MethodGet, path: "/status", id: "status", tag: tagSystem,
		summary: "What is wrong now, and what went wrong lately: always answered, within ten seconds"}, a.report)
}

func (a *api) report(ctx context.Context, _ *struct{}) (*body[Report], error) {
	report, err := a.Service.Report(ctx)
	if err != nil {
		return nil, err
	}
	answer := Report{
		Status: "ok", CheckedAt: time.Now().UTC(), Version: a.Version, Uptime: a.uptime(),
		Problems: each(report.Problems, problemOf), Known: report.Known, Workers: each(report.Workers, workerReportOf),
		Sandboxes: map[string]int{}, Reasons: map[string]int{},
		NotWell: each(report.Unwell, notWellOf), Happened: each(report.Happened, happeningOf),
	}
	if len(report.Problems) > 0 {
		answer.Status = "problems"
	}
	for state, n := range report.Sandboxes {
		answer.Sandboxes[string(state)] = n
	}
	for reason, n := range report.Reasons {
		answer.Reasons[string(reason)] = n
	}
	return &body[Report]{answer}, nil
}

func problemOf(p health.Problem) Problem {
	shown := Problem{About: p.About, Name: p.Name, Detail: p.Detail, Fix: p.Fix}
	if !p.Since.IsZero() {
		since := p.Since.UTC()
		shown.Since = &since
	}
	return shown
}

func workerReportOf(w health.WorkerReport) WorkerReport {
	return WorkerReport{workerOf(w.Worker), w.Asked, w.Answers, w.Error}
}

func notWellOf(s stacyvm.Sandbox) NotWell {
	return NotWell{string(s.ID), string(s.State), string(s.Reason), s.Detail, s.Since.UTC(), string(s.WorkerID)}
}

func happeningOf(h health.Happening) Happening {
	return Happening{string(h.Kind), h.Count, h.First.UTC(), h.Last.UTC(), string(h.SandboxID), h.Data}
}
