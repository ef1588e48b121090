// Command generate writes openapi.json into the folder of package api, in which it is run by go
// generate.
package main

import (
	"fmt"
	"os"

	"banger/internal/openapi"
)

func main() {
	document, err := openapi.Generate(".")
	if err == nil {
		err = os.WriteFile("openapi.json", document, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
