// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What the guest cannot find by itself: how to switch off, the serial port, the clock. Numbers are those of board.h.
DefinitionBlock ("dsdt.aml", "DSDT", 2, "POSTRN", "POSTERN ", 1)
{
	Name (\_S5, Package () { 5, 5, 0, 0 })

	Scope (\_SB)
	{
		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 1)
			Name (_STA, 0x0f)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x03f8, 0x03f8, 1, 8)
				IRQNoFlags () { 4 }
			})
		}

		Device (RTC)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_STA, 0x0f)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0070, 0x0070, 1, 2)
			})
		}
	}
}
