package stacyvm

// Limit names a bound on what one sandbox may use.
type Limit string

// The limits that a sandbox can have.
const (
	LimitMemory Limit = "memory"
	LimitCPU    Limit = "cpu"
	LimitDisk   Limit = "disk"
	LimitPids   Limit = "pids"
)

// AllLimits lists them.
func AllLimits() []Limit { return []Limit{LimitMemory, LimitCPU, LimitDisk, LimitPids} }

// Feature names an optional power of an engine, as the providers' list of capabilities has it.
type Feature string

// Features that need a method which engines do not have yet: none claims them.
const (
	FeaturePause     Feature = "pause"
	FeatureResume    Feature = "resume"
	FeatureSnapshots Feature = "snapshots"
	FeatureFork      Feature = "fork"
)

// Retype gives words of one type as another: where a protocol or a file has plain text. nil stays
// nil.
func Retype[To, From ~string](words []From) []To {
	if words == nil {
		return nil
	}
	typed := make([]To, len(words))
	for i, word := range words {
		typed[i] = To(word)
	}
	return typed
}
