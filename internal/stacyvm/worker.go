package stacyvm

import (
	"regexp"
	"strings"
	"time"
)

// WorkerID names one worker: an operator's word, [A-Za-z0-9._-]{1,64}.
type WorkerID string

var (
	workerID    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	notWorkerID = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
)

// Valid reports whether id has the form of an id.
func (id WorkerID) Valid() bool { return workerID.MatchString(string(id)) }

// WorkerIDOf makes an id of a machine's name. It is not valid when the name is too long or has
// nothing that an id may have.
func WorkerIDOf(name string) WorkerID {
	return WorkerID(strings.Trim(notWorkerID.ReplaceAllString(name, "-"), "-"))
}

// WorkerStatus is what a worker says of itself, or an operator of it.
type WorkerStatus string

// The statuses of workers. Only an online worker takes new sandboxes.
const (
	// WorkerStarting means that it has not renewed its leases yet.
	WorkerStarting WorkerStatus = "starting"
	// WorkerOnline means that it takes sandboxes.
	WorkerOnline WorkerStatus = "online"
	// WorkerDraining means that it ends, or that an operator wants it to be empty.
	WorkerDraining WorkerStatus = "draining"
	// WorkerOffline means that it is out of service.
	WorkerOffline WorkerStatus = "offline"
	// WorkerUnhealthy means that none of its engines works.
	WorkerUnhealthy WorkerStatus = "unhealthy"
)

// Valid reports whether there is such a status.
func (s WorkerStatus) Valid() bool {
	return s.Acts() || s == WorkerOffline || s == WorkerUnhealthy
}

// Acts reports whether a worker of this status acts for its sandboxes, or is about to. Every other
// is out of service.
func (s WorkerStatus) Acts() bool {
	return s == WorkerStarting || s == WorkerOnline || s == WorkerDraining
}

// WorkerStaleAfter is the age of a heartbeat from which a worker counts as stale.
const WorkerStaleAfter = 2 * time.Minute

// CapabilityResident is what a worker in a control plane's own process has, and no other: that
// process alone speaks for it.
const CapabilityResident = "single_node"

// Worker is one machine's registration.
type Worker struct {
	ID            WorkerID
	Hostname      string
	Status        WorkerStatus
	Session       string
	Providers     []string
	Capabilities  []string
	Capacity      Capacity
	Problems      []string // what is wrong with its machine, in sentences, such as a full disk
	LastHeartbeat time.Time
	CreatedAt     time.Time
	UpdatedAt     time.Time
}
