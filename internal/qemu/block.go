package qemu

import (
	"context"
	"errors"
	"fmt"
)

// balloonID is QEMU's id of the one balloon.
const balloonID = "balloon"

// Limits bound a drive's traffic; 0 is no bound. A Burst is what may be used at once beyond the
// rate.
type Limits struct {
	BytesPerSecond, BytesBurst int64
	OpsPerSecond, OpsBurst     int64
}

// SetDriveLimits replaces the limits of a drive.
func (m *Machine) SetDriveLimits(ctx context.Context, drive string, l Limits) error {
	arguments := map[string]any{
		"id": deviceID(drive), "bps": l.BytesPerSecond, "bps_rd": 0, "bps_wr": 0,
		"iops": l.OpsPerSecond, "iops_rd": 0, "iops_wr": 0,
	}
	// QEMU refuses a burst below the rate, and one without a rate.
	if l.BytesBurst > l.BytesPerSecond && l.BytesPerSecond > 0 {
		arguments["bps_max"] = l.BytesBurst
	}
	if l.OpsBurst > l.OpsPerSecond && l.OpsPerSecond > 0 {
		arguments["iops_max"] = l.OpsBurst
	}
	return m.Execute(ctx, "block_set_io_throttle", arguments, nil)
}

// driveFiles are the files that QEMU has open for one drive, by the names of their nodes.
type driveFiles struct {
	newest  int      // generation of the last name that was given
	current string   // what the guest reads
	unused  []string // whose removal is due: of an exchange that failed, or that was not taken away then
}

// filesOf gives a drive's files; of a drive that was never exchanged they are those of
// [Drive.args].
func (m *Machine) filesOf(drive string) *driveFiles {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.drives[drive] == nil {
		m.drives[drive] = &driveFiles{current: fileNode(drive, 0)}
	}
	return m.drives[drive]
}

// ReplaceDrive puts another file, of sizeBytes, under a drive. The guest is told of the new size.
// When it fails before the guest has the new file it keeps the old one.
func (m *Machine) ReplaceDrive(ctx context.Context, d Drive, sizeBytes int64) error {
	files := m.filesOf(d.ID)
	files.newest++
	file := fileNode(d.ID, files.newest)
	add := map[string]any{
		"driver": "file", "node-name": file, "filename": d.Path, "read-only": d.ReadOnly,
		"cache": map[string]any{"no-flush": d.NoFlush}, "locking": "off",
	}
	if err := m.Execute(ctx, "blockdev-add", add, nil); err != nil {
		return err
	}
	reopen := map[string]any{"options": []any{map[string]any{
		"driver": "raw", "node-name": nodeName(d.ID), "file": file, "read-only": d.ReadOnly,
	}}}
	if err := m.Execute(ctx, "blockdev-reopen", reopen, nil); err != nil {
		files.unused = append(files.unused, file)
		return errors.Join(err, m.removeUnused(ctx, files))
	}
	files.unused = append(files.unused, files.current)
	files.current = file
	if err := m.removeUnused(ctx, files); err != nil {
		return err
	}
	// The size of a read-only node is not changed but read again.
	if d.ReadOnly {
		return nil
	}
	return m.Execute(ctx, "block_resize", map[string]any{"node-name": nodeName(d.ID), "size": sizeBytes}, nil)
}

// removeUnused has QEMU close the files that no drive uses any more.
func (m *Machine) removeUnused(ctx context.Context, files *driveFiles) error {
	for len(files.unused) > 0 {
		if err := m.Execute(ctx, "blockdev-del", map[string]any{"node-name": files.unused[0]}, nil); err != nil {
			return err
		}
		files.unused = files.unused[1:]
	}
	return nil
}

// BalloonStats are the guest's memory statistics by QEMU's names (stat-free-memory, in bytes);
// those it has not told are absent.
type BalloonStats map[string]int64

// SetBalloon makes the balloon's target such that remainingMiB are left to the guest.
func (m *Machine) SetBalloon(ctx context.Context, remainingMiB int) error {
	return m.Execute(ctx, "balloon", map[string]any{"value": int64(remainingMiB) << 20}, nil)
}

// BalloonRemaining is how many bytes the balloon leaves to the guest now. It fails while the guest
// has no driver for it.
func (m *Machine) BalloonRemaining(ctx context.Context) (int64, error) {
	var info struct{ Actual int64 }
	err := m.Execute(ctx, "query-balloon", nil, &info)
	return info.Actual, err
}

// PollBalloon has the guest tell its statistics every seconds.
func (m *Machine) PollBalloon(ctx context.Context, seconds int) error {
	return m.Execute(ctx, "qom-set", map[string]any{
		"path": "/machine/peripheral/" + balloonID, "property": "guest-stats-polling-interval", "value": seconds,
	}, nil)
}

// BalloonStats returns what the guest has told last.
func (m *Machine) BalloonStats(ctx context.Context) (BalloonStats, error) {
	var guest struct {
		Stats map[string]uint64 `json:"stats"`
	}
	of := map[string]any{"path": "/machine/peripheral/" + balloonID, "property": "guest-stats"}
	if err := m.Execute(ctx, "qom-get", of, &guest); err != nil {
		return nil, fmt.Errorf("read balloon statistics: %w", err)
	}
	stats := BalloonStats{}
	for name, value := range guest.Stats {
		const unknown = ^uint64(0)
		if value != unknown {
			stats[name] = int64(value)
		}
	}
	return stats, nil
}
