// Command stacyvm is the server and its command line in one file.
package main

import (
	"os"

	"github.com/stacyvm/stacyvm/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
