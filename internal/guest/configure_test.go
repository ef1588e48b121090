package guest_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"banger/internal/guest"
	agentv1 "banger/proto/agent/v1"
	"banger/proto/agent/v1/agentv1connect"
)

// configured keeps what it is asked, and refuses it when it is to.
type configured struct {
	agentv1connect.UnimplementedAgentHandler
	asked   *agentv1.ConfigureRequest
	refusal error
}

func (c *configured) Configure(_ context.Context, r *agentv1.ConfigureRequest) (*agentv1.ConfigureResponse, error) {
	c.asked = r
	return &agentv1.ConfigureResponse{}, c.refusal
}

// serveAgent answers as an agent of this protocol.
func serveAgent(t *testing.T, agent agentv1connect.AgentHandler) *guest.Client {
	t.Helper()
	_, handler := agentv1connect.NewAgentHandler(agent)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(agentv1.ProtocolHeader, strconv.Itoa(agentv1.Protocol))
		handler.ServeHTTP(w, r)
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	client := guest.New(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	})
	t.Cleanup(func() { client.Close() })
	return client
}

func TestConfigure(t *testing.T) {
	full := guest.Network{
		MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, Address: netip.MustParsePrefix("172.30.0.5/16"),
		Gateway: netip.MustParseAddr("172.30.0.1"), Address6: netip.MustParsePrefix("fd00::5/112"),
		Gateway6:    netip.MustParseAddr("fd00::1"),
		Nameservers: []netip.Addr{netip.MustParseAddr("172.30.0.1"), netip.MustParseAddr("9.9.9.9")}, Search: "vm", MTU: 1400,
	}
	tests := []struct {
		name string
		in   guest.Identity
		want *agentv1.ConfigureRequest
	}{
		{"Name", guest.Identity{Hostname: "box"}, &agentv1.ConfigureRequest{Hostname: "box"}},
		{
			"All",
			guest.Identity{Hostname: "box", MachineID: "0123", Network: full},
			&agentv1.ConfigureRequest{Hostname: "box", MachineId: "0123", Network: &agentv1.Network{
				Mac: "02:00:00:00:00:09", Address: "172.30.0.5/16", Gateway: "172.30.0.1", Address6: "fd00::5/112",
				Gateway6:    "fd00::1",
				Nameservers: []string{"172.30.0.1", "9.9.9.9"}, Search: "vm", Mtu: 1400,
			}},
		},
		{
			"AddressOnly",
			guest.Identity{Hostname: "box", Network: guest.Network{Address: full.Address}},
			&agentv1.ConfigureRequest{Hostname: "box", Network: &agentv1.Network{Address: "172.30.0.5/16"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			agent := new(configured)
			if err := serveAgent(t, agent).Configure(t.Context(), tt.in); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, agent.asked, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// An agent that refuses says why, and one that is too old to know the call is no mystery.
func TestConfigureErrors(t *testing.T) {
	refusing := &configured{refusal: connect.NewError(connect.CodeInvalidArgument, errors.New("not a host name"))}
	tests := []struct {
		name  string
		agent agentv1connect.AgentHandler
		want  string
		kind  error
	}{
		{"ErrRefused", refusing, "configure guest: not a host name", guest.ErrInvalid},
		{
			"ErrOldAgent",
			agentv1connect.UnimplementedAgentHandler{},
			"configure guest: banger.agent.v1.Agent.Configure is not implemented", nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := serveAgent(t, tt.agent).Configure(t.Context(), guest.Identity{Hostname: "a b"})
			if err == nil || err.Error() != tt.want || tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
