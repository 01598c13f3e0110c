package local

// For tests of what is on disk.
var (
	LogName = logName
	LineOf  = lineOf
)
