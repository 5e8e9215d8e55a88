// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/pci/msix.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"

/* Offsets into an entry (figure 6-11), and the only bit of its vector control. */
enum { ENTRY_ADDRESS = 0, ENTRY_ADDRESS_HIGH = 4, ENTRY_DATA = 8, ENTRY_CONTROL = 12 };
#define CONTROL_MASK 1u

int msix_init(struct msix *m, const struct msi *msi, unsigned int vectors, struct err *err)
{
	unsigned int i;
	int r;

	*m = (struct msix){ .msi = *msi };
	for (i = 0; i < vectors; i++) {
		r = m->msi.ops->open(m->msi.arg, &m->vector[i].handle, err);
		if (r < 0) {
			msix_fini(m);
			return r;
		}
		m->vector[i].masked = true;
		m->vectors = i + 1;
	}
	return 0;
}

void msix_fini(struct msix *m)
{
	while (m->vectors)
		m->msi.ops->close(m->msi.arg, m->vector[--m->vectors].handle);
}

void msix_reset(struct msix *m)
{
	unsigned int i;

	m->enabled = m->masked = false;
	m->pending = 0;
	for (i = 0; i < m->vectors; i++) {
		m->vector[i].address = 0;
		m->vector[i].data = 0;
		m->vector[i].masked = true;
		m->vector[i].routed = false;
	}
}

/* Brings the carrier up to date once the vector may be sent, and sends what was held back. */
static void vector_update(struct msix *m, unsigned int i)
{
	struct msix_vector *v = &m->vector[i];
	int r;

	if (!m->enabled || m->masked || v->masked)
		return;
	if (!v->routed) {
		r = m->msi.ops->set(m->msi.arg, v->handle, v->address, v->data);
		/* The guest's nonsense: it is told so by silence, as by hardware. */
		if (r < 0)
			log_debug("MSI-X: message 0x%x to 0x%" PRIx64 ": error %d", v->data,
				  v->address, r);
		v->routed = r >= 0;
	}
	if (m->pending >> i & 1) {
		m->pending &= ~(UINT64_C(1) << i);
		if (v->routed)
			m->msi.ops->fire(m->msi.arg, v->handle);
	}
}

void msix_control(struct msix *m, bool enabled, bool masked)
{
	unsigned int i;

	m->enabled = enabled;
	m->masked = masked;
	for (i = 0; i < m->vectors; i++)
		vector_update(m, i);
}

static uint32_t word_read(const struct msix_vector *v, uint64_t at)
{
	switch (at) {
	case ENTRY_ADDRESS:
		return (uint32_t)v->address;
	case ENTRY_ADDRESS_HIGH:
		return (uint32_t)(v->address >> 32);
	case ENTRY_DATA:
		return v->data;
	default:
		return v->masked ? CONTROL_MASK : 0;
	}
}

static void word_write(struct msix *m, unsigned int i, uint64_t at, uint32_t value)
{
	struct msix_vector *v = &m->vector[i];

	switch (at) {
	case ENTRY_ADDRESS:
		/* Must be aligned; the low two bits are not there. */
		v->address = (v->address & ~UINT64_C(0xffffffff)) | (value & ~3u);
		v->routed = false;
		break;
	case ENTRY_ADDRESS_HIGH:
		v->address = (v->address & 0xffffffff) | (uint64_t)value << 32;
		v->routed = false;
		break;
	case ENTRY_DATA:
		v->data = value;
		v->routed = false;
		break;
	default:
		v->masked = value & CONTROL_MASK;
		vector_update(m, i);
	}
}

static bool aligned(uint64_t offset, unsigned int size)
{
	return (size == 4 || size == 8) && offset % size == 0;
}

void msix_table_access(struct msix *m, uint64_t offset, bool write, uint8_t *data,
		       unsigned int size)
{
	unsigned int done;
	uint32_t word;

	if (!write)
		memset(data, 0xff, size);
	if (!aligned(offset, size) || offset / MSIX_ENTRY_BYTES >= m->vectors)
		return;
	for (done = 0; done < size; done += 4, offset += 4) {
		unsigned int i = (unsigned int)(offset / MSIX_ENTRY_BYTES);

		if (write) {
			memcpy(&word, data + done, 4);
			word_write(m, i, offset % MSIX_ENTRY_BYTES, word);
		} else {
			word = word_read(&m->vector[i], offset % MSIX_ENTRY_BYTES);
			memcpy(data + done, &word, 4);
		}
	}
}

void msix_pending_access(struct msix *m, uint64_t offset, bool write, uint8_t *data,
			 unsigned int size)
{
	if (write)
		return;
	memset(data, 0xff, size);
	if (aligned(offset, size) && offset + size <= sizeof(m->pending))
		memcpy(data, (const uint8_t *)&m->pending + offset, size);
}

void msix_fire(struct msix *m, unsigned int i)
{
	if (i >= m->vectors || !m->enabled)
		return;
	m->pending |= UINT64_C(1) << i;
	vector_update(m, i);
}
