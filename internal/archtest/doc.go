// Package archtest holds one test: who may import whom. docs/architecture.md explains the table; the linter's depguard
// rules say the same to an editor.
package archtest
