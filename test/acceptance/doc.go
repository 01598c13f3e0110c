// Package acceptance runs the built binary as a user would: the scripts in testdata are sessions
// at a shell. STACYVM_BIN names the binary.
package acceptance
