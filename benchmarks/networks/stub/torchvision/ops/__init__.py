"""Operations on boxes, and a norm."""
