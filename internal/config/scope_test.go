package config

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
)

// loadSettings reads settings of an environment alone.
func loadSettings(t *testing.T, vars map[string]string) (Config, []api.Setting) {
	t.Helper()
	all := map[string]string{"HOME": "/h"}
	maps.Copy(all, vars)
	c, settings, err := Load(env(all))
	if err != nil {
		t.Fatal(err)
	}
	return c, settings
}

// Every setting goes where its scope says, and nowhere else.
func TestScopes(t *testing.T) {
	_, all := loadSettings(t, nil)
	of := map[string]scope{}
	for _, s := range OfHome(all) {
		of[s.Key] = ofHome
	}
	for key, value := range BuildSources(all) {
		if _, twice := of[key]; twice || value == "" {
			t.Errorf("%s is of the home and of builds, or empty: %q", key, value)
		}
		of[key] = ofBuild
	}
	for _, s := range settings {
		if got, told := of[s.key]; told != (s.scope == ofHome || s.scope == ofBuild) || told && got != s.scope {
			t.Errorf("%s is told as %d (%t), and has the scope %d", s.key, got, told, s.scope)
		}
	}
	if of["vmm"] != ofHome || of["sources.mise"] != ofBuild {
		t.Errorf("scopes: %v", of)
	}
	unknown := []api.Setting{{Key: "nonsense", Value: "x"}}
	if got := OfHome(unknown); got != nil {
		t.Errorf("OfHome of an unknown setting = %v", got)
	}
	if got := BuildSources(unknown); len(got) != 0 {
		t.Errorf("BuildSources of an unknown setting = %v", got)
	}
}

// What a client sends with a build counts in the daemon as if the daemon had read it itself.
func TestWithSources(t *testing.T) {
	vars := map[string]string{
		"BANGER_MISE": "https://mise.example/m#sha256-x", "BANGER_DOCKER_REPOSITORY": "https://docker.example", "BANGER_TMUX_TPM": "https://t.example#v1",
	}
	want, settings := loadSettings(t, vars)
	daemon, _ := loadSettings(t, map[string]string{"BANGER_OPENCODE": "https://other.example"})
	got, err := WithSources(daemon, BuildSources(settings))
	if err != nil || got.Mise != want.Mise || got.DockerRepository != want.DockerRepository ||
		got.TmuxTPM != want.TmuxTPM ||
		got.Opencode != want.Opencode {
		t.Errorf("WithSources = %+v, %v", got, err)
	}
	if daemon.Mise == want.Mise {
		t.Error("the daemon's own settings were changed")
	}
	if got, err := WithSources(daemon, nil); err != nil || got.Opencode != "https://other.example" {
		t.Errorf("without sources: %q, %v", got.Opencode, err)
	}
	for key, value := range map[string]string{
		"nonsense": "x", "vmm": "x", "home": "/x", "cpus": "2", "": "", "sources.mise": " ", "sources.docker_repository": "http://x",
	} {
		if _, err := WithSources(daemon, map[string]string{key: value}); err == nil || api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("WithSources %q=%q = %v, want invalid", key, value, err)
		}
	}
}

func TestInForce(t *testing.T) {
	mine := []api.Setting{
		{Key: "cpus", Value: "2", Origin: "default"},
		{Key: "vmm", Value: "qemu", Origin: "BANGER_VMM"},
		{Key: "subnet", Value: "10.0.0.0/16", Origin: "FILE"},
	}
	for _, test := range []struct {
		name string
		of   []api.Setting
		want map[string]api.Setting // that differ from mine
	}{
		{"NoDaemon", nil, nil},
		{"Same", []api.Setting{{Key: "vmm", Value: "qemu", Origin: "default"}, {Key: "subnet", Value: "10.0.0.0/16", Origin: "default"}}, nil},
		{"Other", []api.Setting{{Key: "vmm", Value: "auto", Origin: "default"}}, map[string]api.Setting{
			"vmm": {Key: "vmm", Value: "auto", Origin: "default", Pending: "qemu", PendingOrigin: "BANGER_VMM"},
		}},
		{"Both", []api.Setting{{Key: "subnet", Value: "x", Origin: "FILE2"}, {Key: "vmm", Value: "auto", Origin: "default"}}, map[string]api.Setting{
			"vmm":    {Key: "vmm", Value: "auto", Origin: "default", Pending: "qemu", PendingOrigin: "BANGER_VMM"},
			"subnet": {Key: "subnet", Value: "x", Origin: "FILE2", Pending: "10.0.0.0/16", PendingOrigin: "FILE"},
		}},
		{"OfAnotherVersion", []api.Setting{{Key: "nonsense", Value: "x"}}, nil},
	} {
		want := append([]api.Setting{}, mine...)
		for i, s := range want {
			if other, ok := test.want[s.Key]; ok {
				want[i] = other
			}
		}
		if diff := cmp.Diff(want, InForce(mine, test.of)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// A home folder has more than one path, and what a client calls it is no other setting than its
// daemon's.
func TestInForceOfTheSameHome(t *testing.T) {
	_, mine := loadSettings(t, map[string]string{"BANGER_HOME": "/b/../home/", "BANGER_CPUS": "3"})
	_, of := loadSettings(t, map[string]string{"BANGER_HOME": "/home", "BANGER_CPUS": "1"})
	if diff := cmp.Diff(mine, InForce(mine, OfHome(of))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
