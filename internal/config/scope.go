package config

import "banger/api"

// OfHome returns those settings that a daemon keeps from its start on.
func OfHome(all []api.Setting) []api.Setting { return withScope(all, ofHome) }

// BuildSources returns the settings that are sent with an image build, by key.
func BuildSources(all []api.Setting) map[string]string {
	sources := map[string]string{}
	for _, s := range withScope(all, ofBuild) {
		sources[s.Key] = s.Value
	}
	return sources
}

func withScope(all []api.Setting, of scope) []api.Setting {
	var some []api.Setting
	for _, s := range all {
		if known, ok := find(s.Key); ok && known.scope == of {
			some = append(some, s)
		}
	}
	return some
}

func find(key string) (setting, bool) {
	for _, s := range settings {
		if s.key == key {
			return s, true
		}
	}
	return setting{}, false
}

// WithSources returns c with the settings that came with an image build.
func WithSources(c Config, sources map[string]string) (Config, error) {
	for key, value := range sources {
		s, ok := find(key)
		if !ok || s.scope != ofBuild {
			return c, api.Errorf(api.CodeInvalid, "%q is no setting of image builds", key)
		}
		if err := s.set(&c, value); err != nil {
			return c, api.Errorf(api.CodeInvalid, "setting %s: %w", key, err)
		}
	}
	return c, nil
}

// InForce returns the settings as they count now: what this process read, but those of the home as
// its daemon has them, which may have been started with others. A value that waits for the next
// daemon is shown as pending. of is nil when no daemon runs.
func InForce(mine, of []api.Setting) []api.Setting {
	byKey := map[string]api.Setting{}
	for _, s := range of {
		byKey[s.Key] = s
	}
	var all []api.Setting
	for _, s := range mine {
		if has, ok := byKey[s.Key]; ok && has.Value != s.Value {
			s = api.Setting{Key: s.Key, Value: has.Value, Origin: has.Origin, Pending: s.Value, PendingOrigin: s.Origin}
		}
		all = append(all, s)
	}
	return all
}
