// Package stacyvm is the product's vocabulary: sandboxes and their states, specs, workers, leases,
// fences, principals and errors. It is the root of the import graph: it knows the standard library
// and nothing else, does no input or output and holds no goroutine.
package stacyvm
