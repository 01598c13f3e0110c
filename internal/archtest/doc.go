// Package archtest holds one table: who may import whom. Its tests check the tree, and write the
// linter's and the document's tables from it.
package archtest

//go:generate go test . -run TestTables -update
