package api

import _ "embed" // for the document

// OpenAPI is this API as an OpenAPI 3.1 document, generated from Operations.
//
//go:embed openapi.json
var OpenAPI []byte
