package stacyvm

import "time"

type (
	// EnvironmentID names an environment spec.
	EnvironmentID string
	// BuildID names one build of an environment.
	BuildID string
	// ConnectionID names a registry account.
	ConnectionID string
)

// Environment is a spec from which an image is built: a base and the packages on top of it.
type Environment struct {
	ID             EnvironmentID
	OwnerID        string
	Name           string // unique for its owner
	BaseImage      string
	PythonPackages []string
	AptPackages    []string
	PythonVersion  string
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// Build is one attempt to make an environment's image.
type Build struct {
	ID            BuildID
	EnvironmentID EnvironmentID
	OwnerID       string // the environment's
	Status        BuildStatus
	// queued, validate_spec, generate_dockerfile, docker_build, tag_and_push_targets, finalize,
	// canceled
	Step        string
	Log         string
	ImageBytes  int64
	DigestLocal string
	Error       string
	CreatedAt   time.Time
	FinishedAt  time.Time // zero until it is final
	UpdatedAt   time.Time
}

// BuildStatus is where a build is.
type BuildStatus string

// The last three are final.
const (
	BuildQueued   BuildStatus = "queued"
	BuildRunning  BuildStatus = "building"
	BuildReady    BuildStatus = "ready"
	BuildFailed   BuildStatus = "failed"
	BuildCanceled BuildStatus = "canceled"
)

// Final reports whether a build in this status changes no more.
func (s BuildStatus) Final() bool { return s == BuildReady || s == BuildFailed || s == BuildCanceled }

// Artifact is what a build made for one target.
type Artifact struct {
	BuildID   BuildID
	Target    string // local, ghcr, dockerhub; one artifact for each
	ImageRef  string
	Digest    string
	Status    string // pending, ready, failed
	Error     string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Connection is an owner's account at a registry.
type Connection struct {
	ID        ConnectionID
	OwnerID   string
	Provider  string // ghcr, dockerhub
	Username  string
	SecretRef string // where the credential is kept; never the credential
	Default   bool   // at most one of an owner's at each provider
	CreatedAt time.Time
	UpdatedAt time.Time
}
