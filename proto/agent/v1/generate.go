package agentv1

// The generators are built from the versions in go.mod into /bin, which git ignores; protoc comes
// from the distribution (Debian: protobuf-compiler).
//go:generate go build -o ../../../bin/ google.golang.org/protobuf/cmd/protoc-gen-go connectrpc.com/connect/cmd/protoc-gen-connect-go
//go:generate protoc --plugin=../../../bin/protoc-gen-go --plugin=../../../bin/protoc-gen-connect-go --go_out=. --go_opt=paths=source_relative --connect-go_out=. --connect-go_opt=paths=source_relative,simple agent.proto
