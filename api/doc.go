// Package api is the daemon's HTTP API as Go values: the wire types, the closed set of error codes
// and the client.
//
// The daemon, the CLI and any other program use these same types; `--json` prints them. It imports
// the standard library only, so that a program of somebody else's can take it without taking
// banger.
package api

//go:generate go run ../internal/openapi/generate
