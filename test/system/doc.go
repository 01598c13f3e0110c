// Package system tests the built binary with real gVisor sandboxes under load, crashes, floods and
// hostile guests. It uses the public client and what the host shows, nothing from inside.
// STACYVM_BIN names the binary.
package system
